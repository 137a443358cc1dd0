"""Forget rows whose content stands in rows to keep, or in the holdout: quoted, nearly so, or the answer in other words.

Words are compared (`scoring.words`), so case, accents, punctuation, spacing and normal forms make no difference. Of a
document, and of every answer, the runs of three words are looked up in each other row (all of them, so the search is
exact: containment, which hashes of whole rows or MinHash, made for texts alike in length, do not see). It is *quoted*
where all of them stand in one row, *nearly* where half of them and half of its rare ones do: forms and phrases that
many rows share make no copy. Of an answer, a row may also hold all words that its question does not have, if hardly
a row has them.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from expunge.data.rows import Row
from expunge.scoring.words import runs, weight, words

RUN = 3
LEAST, SHORT = 6, 4  # letters that an answer must have, or a word that gives it away; and any word that counts
NEAR = 0.5
ALL_BUT = 0.9  # of a needle without anything rare
RARE, FEW = 1000, 2  # of so many rows one may hold what is rare; two may in any case
CHANCE, LONG = 2, 4  # words of an answer that may meet by chance; digits of a number that tells all by itself
FEWEST_RUNS = 4  # that a text must have to be nearly quoted

How = Literal["quoted", "nearly quoted", "answered in other words"]
Gram = tuple[str, ...]


class Echo(NamedTuple):
    """A forget row, a row of the set `role` that holds its content, and in which way."""

    row: Row
    twin: Row
    role: str
    how: How


@dataclass(frozen=True, slots=True)
class Needle:
    """What is looked for: the runs of words of a text, or the long words of an answer."""

    row: Row
    grams: frozenset[Gram]
    alone: bool = False


def echoes(forget: Sequence[Row], sets: Mapping[str, Sequence[Row]]) -> tuple[Echo, ...]:
    """For each forget row and set at most one row that holds its content, the plainest."""
    wanted = [needle for row in forget for needle in needles(row)]
    found: list[Echo] = []
    for role, rows in sets.items():
        best: dict[int, Echo] = {}
        for echo in _search(wanted, role, rows):
            known = best.get(id(echo.row))
            if known is None or _ORDER[echo.how] < _ORDER[known.how]:
                best[id(echo.row)] = echo
        found += [best[id(row)] for row in forget if id(row) in best]
    return tuple(found)


def told(found: Iterable[Echo]) -> list[str]:
    """A warning for each set in which there is anything."""
    by_role: dict[str, list[Echo]] = defaultdict(list)
    for echo in found:
        by_role[echo.role].append(echo)
    means = {"retain": "which keep it", "holdout": "so these are not unseen", "train": "so a retrained model learns it"}
    lines = []
    for role, some in by_role.items():
        named = ", ".join(f"{one.row.name} {one.how} in {one.twin.name}" for one in some[:3])
        more = f" and {len(some) - 3} more" if len(some) > 3 else ""
        lines.append(
            f"warning: the content of {len(some)} forget rows also stands in {role} rows, {means[role]} ({named}{more})"
        )
    return lines


_ORDER: dict[How, int] = {"quoted": 0, "nearly quoted": 1, "answered in other words": 2}


def needles(row: Row) -> Iterator[Needle]:
    """What is looked for of a row: its text, or every answer in it, and an answer's own words."""
    turns = row.messages or ((("assistant", row.completion),) if row.kind == "answer" else ())
    texts = [words(text) for role, text in turns if role == "assistant"] or [words(text_of(row))]
    asked = set(words(row.prompt))
    for one in texts:
        if weight(one) >= LEAST:
            yield Needle(row, grams(one))
            own = [word for word in set(one) - asked if weight([word]) >= SHORT or word.isdigit()]
            if turns and len(one) > 1 and any(weight([word]) >= LEAST for word in own):
                yield Needle(row, frozenset((word,) for word in own), alone=True)


def grams(found: list[str]) -> frozenset[Gram]:
    """The runs of three words; of fewer words, all of them as one."""
    if len(found) <= RUN:
        return frozenset((tuple(found),))
    return frozenset(runs(found, RUN))


def text_of(row: Row) -> str:
    """All that a row says."""
    return f"{row.prompt}\n{row.completion}"


def _search(wanted: Sequence[Needle], role: str, rows: Sequence[Row]) -> Iterator[Echo]:
    """Every needle with the row that holds most of it, where that is enough."""
    where = _places({gram for needle in wanted for gram in needle.grams}, rows)
    most = max(FEW, len(rows) // RARE)
    for needle in wanted:
        held = {gram: where.get(gram, []) for gram in needle.grams}
        rare = {gram for gram, places in held.items() if len(places) <= (FEW if needle.alone else most)}
        counts = Counter(place for gram in rare or held for place in held[gram])
        if not counts:
            continue
        place, count = min(counts.items(), key=lambda pair: (-pair[1], pair[0]))
        shares = (count / len(rare or held), sum(place in places for places in held.values()) / len(held))
        if how := told_by(needle, rare, min(shares)):
            yield Echo(needle.row, rows[place], role, how)


def told_by(needle: Needle, rare: Collection[Gram], share: float) -> How | None:
    """In which way a row holds what is looked for, if this `share` of it and of what is `rare` in it stands there."""
    return _alone(needle, rare, share) if needle.alone else _how(needle, bool(rare), share)


def _how(needle: Needle, rare: bool, share: float) -> How | None:
    if share == 1:
        return "quoted"
    enough = share >= (NEAR if rare else ALL_BUT) and len(needle.grams) >= FEWEST_RUNS
    return "nearly quoted" if enough else None


def _alone(needle: Needle, rare: Collection[Gram], share: float) -> How | None:
    """Two words that meet in a row, such as a trade and a town, may do so by chance. Three hardly do, nor a long
    number; and a word that is all there is of an answer is looked at by itself."""
    telling = len(needle.grams) != CHANCE or any(sum(map(str.isdigit, word)) >= LONG for (word,) in rare)
    return "answered in other words" if rare and telling and share == 1 else None


def _places(wanted: set[Gram], rows: Sequence[Row]) -> dict[Gram, list[int]]:
    """By run of words the rows that it stands in, in order."""
    by_length = {length: {gram for gram in wanted if len(gram) == length} for length in set(map(len, wanted))}
    where: dict[Gram, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        found = words(text_of(row))
        for length, some in by_length.items():
            for gram in some.intersection(runs(found, length)):
                where[gram].append(place)
    return dict(where)
