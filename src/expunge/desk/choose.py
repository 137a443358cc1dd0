"""Which rows a request is about: those of a rule, those that are the same, and those that a person must decide on.

A rule says whose rows are meant (`--where column=value`) and which names are (`--mentions`). Rows whose column holds
the value are to be forgotten; a row of somebody else's that mentions a name is a matter of judgement, and so is a row
that comes near to one to be forgotten (`intake.near`). Where nothing says whose rows are meant, names alone choose.

What is undecided is neither forgotten nor kept: it stays out of both until it is decided.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from expunge.data.rows import Made, Row
from expunge.desk import names
from expunge.desk.names import Names
from expunge.errors import InputError
from expunge.intake.near import near
from expunge.scoring.words import same_text, words

Group = Literal["forget", "retain", "holdout", "undecided", "left out"]
Verdict = Literal["forget", "keep", "undecided"]


class Condition(NamedTuple):
    """A column that holds a value; of nested columns, their names with dots between them."""

    column: str
    value: str


@dataclass(frozen=True, slots=True)
class Rule:
    """Whose rows are meant, and which names. `values`: by column those that were asked for, normal forms, case and
    spacing put aside."""

    where: tuple[Condition, ...]
    names: Names
    values: Mapping[str, set[str]]

    @classmethod
    def of(cls, where: Sequence[str], mentions: Sequence[str], file: str | None) -> "Rule":
        """As the flags say it. Raises `InputError`."""
        if not (where or mentions or file):
            raise InputError("nothing says which rows: give --where COLUMN=VALUE, --mentions NAME or --mentions-file.")
        for said in where:
            column, equals, value = said.partition("=")
            if not (column and equals and value.strip()):
                raise InputError("--where: write COLUMN=VALUE, such as customer_id=4711.")
        conditions = tuple(Condition(*one.split("=", 1)) for one in where)
        values: dict[str, set[str]] = defaultdict(set)
        for one in conditions:
            values[one.column].add(same_text(one.value))
        return cls(conditions, names.read(mentions, file), dict(values))

    def owners(self, record: object) -> list[str]:
        """The columns of the record that hold what was asked for."""
        return [
            column
            for column, values in self.values.items()
            if any(same_text(cell) in values for cell in cells(record, column))
        ]

    def mentioned(self, record: object) -> list[str]:
        """Where those names were given that stand anywhere in the record."""
        return self.names.within(words("\n".join(names.texts(record)))) if self.names.forms else []


class Reason(NamedTuple):
    """Why a row is where it is. `of`: the row, or where the name was given, that it points at."""

    kind: str
    of: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.of}".rstrip()

    @property
    def in_general(self) -> str:
        """Without the row or the name."""
        return self.kind.removesuffix(":") if not self.of or self.kind.endswith(":") else f"{self.kind} another row"


class Chosen(NamedTuple):
    """What becomes of a row, and why."""

    group: Group
    reasons: tuple[Reason, ...]


def choose(made: Sequence[Made], rule: Rule, decided: Mapping[int, Verdict]) -> list[Chosen]:
    """What becomes of every row, by its place. `decided`: what a person said of rows, by place."""
    rows = [one.row for one in made]
    forget, mentions = _by_rule(made, rule)
    forget |= {place: DECIDED_FORGET for place, said in decided.items() if said == "forget" and place not in forget}
    same = _by_identity(rows)
    forget |= {twin: Reason(SAME_ROW, rows[place].name) for place, twin in _spread(forget, same)}
    undecided = {place: why for place, why in mentions.items() if place not in forget}
    others = [place for place in range(len(rows)) if place not in forget]
    for number, one in near([rows[place] for place in forget], [rows[place] for place in others]).items():
        undecided.setdefault(others[number], []).append(Reason(_WORDS[one.how], one.row.name))
    undecided |= {twin: [Reason(SAME_ROW, rows[place].name)] for place, twin in _spread(undecided, same)}
    chosen = [Chosen("retain", (OTHER,)) for _ in rows]
    for place, reasons in undecided.items():
        kept = decided.get(place) == "keep"
        chosen[place] = Chosen("retain", (DECIDED_KEEP, *reasons)) if kept else Chosen("undecided", tuple(reasons))
    for place, reason in forget.items():
        chosen[place] = Chosen("forget", (reason,))
    return chosen


def unseen(made: Sequence[Made], rule: Rule, rows: Sequence[Row], chosen: Sequence[Chosen]) -> list[Chosen]:
    """What becomes of rows that the model never saw: candidates for the holdout are those of the forget rows' kinds
    that are no training rows and hold nothing of what is to be forgotten or is undecided."""
    wanted = [row for row, one in zip(rows, chosen, strict=True) if one.group in ("forget", "undecided")]
    kinds = {row.kind for row, one in zip(rows, chosen, strict=True) if one.group == "forget"}
    known = {row.identity for row in rows}
    close = near(wanted, [one.row for one in made])
    found = []
    for place, one in enumerate(made):
        reasons = [*_owned(rule, one.record), *_mentioned(rule, one.record)]
        reasons += [Reason("also stands in the training rows")] if one.row.identity in known else []
        reasons += [Reason(_WORDS[close[place].how], close[place].row.name)] if place in close else []
        reasons += [Reason("another kind of row than those to forget")] if one.row.kind not in kinds else []
        found.append(Chosen("left out", tuple(reasons)) if reasons else Chosen("holdout", (UNSEEN,)))
    return found


SAME_ROW = "the same row as"
OTHER, UNSEEN = Reason("not what was asked for"), Reason("never seen, and of the same kind")
DECIDED_FORGET, DECIDED_KEEP = Reason("decided: forget"), Reason("decided: keep")
_WORDS = {
    "quoted": "holds all of",
    "nearly quoted": "holds most of",
    "nearly the same row": "is nearly the same as",
    "a piece of it": "is a piece of",
    "answered in other words": "gives, in other words, the answer of",
}


def _by_rule(made: Sequence[Made], rule: Rule) -> tuple[dict[int, Reason], dict[int, list[Reason]]]:
    """Places of the rows to forget with the reason; places of all that mention a name, with those reasons."""
    forget: dict[int, Reason] = {}
    mentions: dict[int, list[Reason]] = {}
    for place, one in enumerate(made):
        if owned := _owned(rule, one.record):
            forget[place] = owned[0]
        if mentioned := _mentioned(rule, one.record):
            mentions[place] = mentioned
    return (forget if rule.where else {place: reasons[0] for place, reasons in mentions.items()}), mentions


def _owned(rule: Rule, record: object) -> list[Reason]:
    return [Reason(f"holds the value that was asked for in {column}") for column in rule.owners(record)]


def _mentioned(rule: Rule, record: object) -> list[Reason]:
    return [Reason("mentions a name that was asked for:", label) for label in rule.mentioned(record)]


def _by_identity(rows: Sequence[Row]) -> list[list[int]]:
    """For every row the places of all that are the same row."""
    places: dict[tuple[str, ...], list[int]] = defaultdict(list)
    identities = [row.identity for row in rows]
    for place, identity in enumerate(identities):
        places[identity].append(place)
    return [places[identity] for identity in identities]


def _spread(found: Mapping[int, object], same: Sequence[Sequence[int]]) -> Iterator[tuple[int, int]]:
    """Places that were found with those of the same rows that were not."""
    for place in list(found):
        for twin in same[place]:
            if twin not in found:
                yield place, twin


def cells(record: object, column: str) -> list[str]:
    """What a column of a record holds, as texts: one, or those of a list."""
    found = _cell(record, column)
    return [
        str(cell) for cell in (found if isinstance(found, list) else [found]) if isinstance(cell, str | int | float)
    ]


def _cell(record: object, column: str) -> object:
    """The cell of a column, also of one whose own name has dots."""
    if not isinstance(record, dict) or column in record:
        return record.get(column) if isinstance(record, dict) else None
    first, dot, rest = column.partition(".")
    return _cell(record.get(first), rest) if dot else None
