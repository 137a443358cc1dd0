"""Every row that holds the content of a row to forget, or nearly equals it: what a person should look at.

`copies` warns of the plainest row for each forget row; here all rows are wanted, and a row that is a piece of a forget
row, or nearly all of it, counts too. The rules are those of `copies`: runs of three words (of an answer also its own
words), of which half must stand in the other row, and half of the rare ones. What many rows share is no sign of
anything: rare is what at most one row in a hundred holds (twenty in any case; `copies`, which warns, is content with
one in a thousand). A forget row that holds nothing rare is looked for as a whole: 90 % of its runs, and 90 % of the
other row's.

The search is exact and takes one pass, or two where a forget row holds nothing rare.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from expunge.data.rows import Row
from expunge.intake import copies
from expunge.intake.copies import ALL_BUT, FEW, FEWEST_RUNS, NEAR, RUN, Gram, Needle
from expunge.scoring.words import runs, words

FEW_OF_ALL, SHARE = 20, 100  # rows that may hold what is rare, however few rows there are; else one in so many
ORDER = ("quoted", "nearly quoted", "nearly the same row", "a piece of it", "answered in other words")


class Near(NamedTuple):
    """The forget row that a row comes near to, and how."""

    row: Row
    how: str


@dataclass(frozen=True, slots=True)
class _Where:
    """By run of words the rows that it stands in, where those are few; `common`: the runs that more rows hold."""

    places: dict[Gram, list[int]]
    common: frozenset[Gram]


def near(forget: Sequence[Row], rows: Sequence[Row]) -> dict[int, Near]:
    """By place among `rows` the forget row that it comes nearest to, for every row that comes near to one."""
    needles = [needle for row in forget for needle in copies.needles(row)]
    wholes = {copies.grams(words(copies.text_of(row))): row for row in reversed(forget)}
    most = most_rare(len(rows))
    wanted = {gram for needle in needles for gram in needle.grams} | {gram for whole in wholes for gram in whole}
    where = _scan(wanted, rows, most)
    found: dict[int, Near] = {}
    for place, one in (*_quoted(needles, where, rows), *_pieces(wholes, where, rows), *_alike(wholes, where, rows)):
        if place not in found or ORDER.index(one.how) < ORDER.index(found[place].how):
            found[place] = one
    return found


def most_rare(count: int) -> int:
    """In how many of so many rows something may stand that is rare."""
    return max(FEW_OF_ALL, count // SHARE)


def _quoted(needles: Iterable[Needle], where: _Where, rows: Sequence[Row]) -> Iterator[tuple[int, Near]]:
    for needle in needles:
        rare = {
            gram: places
            for gram in needle.grams - where.common
            if len(places := where.places.get(gram, [])) <= FEW or not needle.alone
        }
        counts = Counter(place for places in rare.values() for place in places)
        for place, count in counts.items():
            if count < NEAR * len(rare):
                continue
            share = len(needle.grams & _runs(copies.text_of(rows[place]), {len(gram) for gram in needle.grams})) / len(
                needle.grams
            )
            if how := copies.told_by(needle, rare, min(share, count / len(rare))):
                yield place, Near(needle.row, how)


def _pieces(wholes: dict[frozenset[Gram], Row], where: _Where, rows: Sequence[Row]) -> Iterator[tuple[int, Near]]:
    """Rows whose text or answer stands in a longer forget row, with something rare."""
    for whole, row in wholes.items():
        for place in {place for gram in whole - where.common for place in where.places.get(gram, ())}:
            own = _runs(rows[place].completion, {RUN})  # the question that it answers may be another
            if len(own) >= FEWEST_RUNS and len(own & whole) >= ALL_BUT * len(own):
                yield place, Near(row, "a piece of it")


def _alike(wholes: dict[frozenset[Gram], Row], where: _Where, rows: Sequence[Row]) -> Iterator[tuple[int, Near]]:
    """Rows that nearly equal a forget row that holds nothing rare."""
    plain = [whole for whole in wholes if whole <= where.common]
    holders: dict[Gram, list[int]] = defaultdict(list)
    for number, whole in enumerate(plain):
        for gram in whole:
            holders[gram].append(number)
    if not plain:
        return
    for place, row in enumerate(rows):
        own = _runs(copies.text_of(row), {len(gram) for gram in holders})
        counts = Counter(number for gram in own & holders.keys() for number in holders[gram])
        for number, count in counts.items():
            if count >= math.ceil(ALL_BUT * max(len(own), len(plain[number]))):
                yield place, Near(wholes[plain[number]], "nearly the same row")


def _scan(wanted: set[Gram], rows: Sequence[Row], most: int) -> _Where:
    lengths = {length: {gram for gram in wanted if len(gram) == length} for length in set(map(len, wanted))}
    places: dict[Gram, list[int]] = defaultdict(list)
    common: set[Gram] = set()
    for place, row in enumerate(rows):
        found = words(copies.text_of(row))
        for length, some in lengths.items():
            for gram in some.intersection(runs(found, length)) - common:
                places[gram].append(place)
                if len(places[gram]) > most:
                    common.add(gram)
                    del places[gram]
    return _Where(dict(places), frozenset(common))


def _runs(text: str, lengths: set[int]) -> set[Gram]:
    found = words(text)
    return {gram for length in lengths for gram in runs(found, length)}
