"""`expunge filter`: the rows of the next fine-tuning without those that were to be forgotten.

The ledger knows rows by keyed hash alone. A row is kept out where it is one of them in any spelling (normal form, case,
spacing). It is listed for decision, and left out until then, where it holds two in five of the runs of words that the
ledger kept of a row, those that many rows of the file share left aside (exact search asks for half; what is kept is a
sample); where a column holds the value that a request asked
for; or where it holds a name that a request was about. What hashes cannot tell: an answer in other words, and rows that
share fewer words.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from expunge.config.desk import Filter
from expunge.data.files import raw_lines
from expunge.data.rows import Made, Row, each
from expunge.desk import decisions, names
from expunge.desk.choose import DECIDED_FORGET, DECIDED_KEEP, Chosen, Reason, cells
from expunge.desk.select import original, value_hash
from expunge.errors import InputError
from expunge.files import hashing, whole
from expunge.intake import copies
from expunge.intake.near import most_rare
from expunge.records import ledger
from expunge.records.ledger import Ledger
from expunge.scoring.words import runs, words

FEWEST, NEAR = 2, 0.4  # kept runs that a row must share, and of those that are rare
OTHER = Reason("not of any request")
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Kept:
    """What was written, and how many rows stayed out."""

    output: Path
    counts: Mapping[str, int]


def run(config: Filter, say: Say) -> Kept:
    """Filters and writes. Raises `InputError`."""
    output = Path(config.output)
    listed = output.with_name(f"{output.name.removesuffix('.jsonl')}.{decisions.NAME}")
    if output.is_dir() or (output.exists() and not (listed.is_file() and listed.stat().st_size)):
        raise InputError(f"{output}: the output exists already and is never overwritten. Name another --output.")
    known = ledger.read(config.ledger)
    made = list(each(config.next_train, "training", columns=config.columns))
    decided = decisions.read(listed, rows := [one.row for one in made], known.secret)
    chosen = choose(made, known, decided.by_place)
    decided.check(chosen, rows)
    raw = raw_lines(config.next_train, "training")
    stays = (original(one, raw) + b"\n" for one, what in zip(made, chosen, strict=True) if what.group == "retain")
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    whole.prepare(output, stays)
    whole.prepare(listed, decisions.entries(rows, chosen, decided, known.secret, config.show_rows))
    output.unlink(missing_ok=True)  # so that no file is there that holds what has been decided against
    whole.place(listed)
    whole.place(output)
    for line in _lines(found := Counter[str](one.group for one in chosen), chosen, listed):
        say(line)
    return Kept(output, {name: found[name] for name in ("retain", "forget", "undecided")})


def choose(made: Sequence[Made], known: Ledger, decided: Mapping[int, str]) -> list[Chosen]:
    """What becomes of every row, by its place."""
    owners = {row.same: request.id for request in known.requests.values() for row in request.opened.rows}
    near, asked = _near([one.row for one in made], known), _Asked(known)
    chosen = []
    for place, one in enumerate(made):
        reasons = [*near.get(place, ()), *asked.reasons(one.record)]
        if owner := owners.get(ledger.same_row(one.row, known.secret)):
            chosen.append(Chosen("forget", (Reason("a row of request", owner),)))
        elif not reasons or decided.get(place) == "keep":
            chosen.append(Chosen("retain", (DECIDED_KEEP, *reasons) if reasons else (OTHER,)))
        elif decided.get(place) == "forget":
            chosen.append(Chosen("forget", (DECIDED_FORGET, *reasons)))
        else:
            chosen.append(Chosen("undecided", tuple(reasons)))
    return chosen


def _near(rows: Sequence[Row], known: Ledger) -> dict[int, list[Reason]]:
    """Rows that hold enough of the kept runs of a row of a request that are rare here."""
    wanted = {run for request in known.requests.values() for row in request.opened.rows for run in row.runs}
    places: dict[str, set[int]] = defaultdict(set)
    for place, row in enumerate(rows):
        for gram in copies.grams(words(copies.text_of(row))):
            if (run := hashing.run_hash(gram, known.secret)) in wanted:
                places[run].add(place)
    found: dict[int, list[Reason]] = defaultdict(list)
    most = most_rare(len(rows))
    for request in known.requests.values():
        for mark in request.opened.rows:
            rare = [run for run in mark.runs if len(places[run]) <= most]
            counts = Counter(place for run in rare for place in places[run])
            for place, count in counts.items():
                reason = Reason("holds words of a row of request", request.id)
                if count >= max(FEWEST, NEAR * len(rare)) and reason not in found[place]:
                    found[place].append(reason)
    return found


class _Asked:
    """The rules by which rows of requests were found, as far as hashes tell."""

    def __init__(self, known: Ledger) -> None:
        self._secret = known.secret
        self._where: list[tuple[str, str, str]] = []
        self._names: dict[int, dict[str, str]] = defaultdict(dict)
        for request in known.requests.values():
            if selection := request.opened.selection:
                self._where += [(one.column, one.value, request.id) for one in selection.rule.where]
                for one in selection.rule.mentions:
                    self._names[one.words][one.name] = request.id

    def reasons(self, record: Any) -> Iterator[Reason]:
        """Why a record may belong to a request."""
        for column, value, owner in self._where:
            if value in {value_hash(cell, self._secret) for cell in cells(record, column)}:
                yield Reason(f"holds the value that was asked for in {column}, by request", owner)
        if self._names:
            found = words("\n".join(names.texts(record)))
            for length, some in self._names.items():
                grams = set(runs(found, length))
                for owner in {some[run] for gram in grams if (run := hashing.run_hash(gram, self._secret)) in some}:
                    yield Reason("mentions a name of request", owner)


def _lines(counts: Mapping[str, int], chosen: Sequence[Chosen], listed: Path) -> Iterator[str]:
    yield f"{counts['retain']:,} rows may be trained on"
    for reason, count in Counter(one.reasons[0] for one in chosen if one.group == "forget").most_common():
        yield f"  {count:,} kept out: {reason}"
    if counts["undecided"]:
        yield (
            f"{counts['undecided']:,} rows are undecided and left out. Write forget or keep in {listed}, then give the "
            "same command again."
        )
