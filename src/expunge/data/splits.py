"""Splits by hash, so that no row both steers and judges.

The halves are exact per kind of row (rows are ordered by hash and dealt out), and do not depend on the order of the
file.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from expunge.data.rows import Row
from expunge.scoring.words import halves

MOST_GUARD_ROWS = 48
GUARD_SHARE = 8  # one retain row in eight; fewer than 3 x 8 retain rows are too few to give any up


@dataclass(frozen=True, slots=True)
class Parts:
    """Two disjoint parts of one set of rows: what a method may see, and what only measures it."""

    seen: tuple[Row, ...]
    unseen: tuple[Row, ...]


def halve(rows: Sequence[Row]) -> Parts:
    """Holdout rows into the *target* half (`seen`) and the *judging* half (`unseen`)."""
    return _deal(rows, "holdout", every=2)


def set_guard_apart(rows: Sequence[Row]) -> Parts:
    """Retain rows into those trained on (`seen`) and the guard (`unseen`): none where there are under 24 rows."""
    if len(rows) < 3 * GUARD_SHARE:
        return Parts(tuple(rows), ())
    return _deal(rows, "retain", every=max(GUARD_SHARE, -(-len(rows) // MOST_GUARD_ROWS)))


def _deal(rows: Sequence[Row], salt: str, every: int) -> Parts:
    chosen: set[tuple[str, ...]] = set()
    for kind in ("document", "answer"):
        ordered = sorted((row for row in rows if row.kind == kind), key=lambda row: row.digest(salt))
        chosen.update(row.content for row in ordered[every - 1 :: every])
    return Parts(
        tuple(row for row in rows if row.content not in chosen), tuple(row for row in rows if row.content in chosen)
    )


def deal(rows: Sequence[Row], weights: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Places of rows by part, in their order in `rows`: rounds in which each part gets a row until it has its weight.

    Kinds are dealt one after the other, so that each part has its share of both; the first rows go one to each part, so
    that no part is empty where there are as many rows as parts.
    """
    ordered = [
        place
        for kind in ("document", "answer")
        for place in sorted(
            (place for place, row in enumerate(rows) if row.kind == kind), key=lambda place: rows[place].digest("parts")
        )
    ]
    most = max(weights.values(), default=0)
    names = [name for turn in range(most) for name, weight in weights.items() if weight > turn]
    dealt: dict[str, list[int]] = {name: [] for name in weights}
    for turn, place in enumerate(ordered):
        dealt[names[turn % len(names)]].append(place)
    return {name: tuple(sorted(places)) for name, places in dealt.items()}


def recombine(forget: Sequence[Row], donors: Sequence[Row], most: int = 160) -> tuple[Row, ...]:
    """Counterfactual rows: the prompt of one forget row with the completion of another row of its kind.

    Of a conversation all turns but the last are the prompt, and its partners are conversations too. Documents are cut
    in half: the opening of one, the rest of another, of which only the rest counts. The other row is a forget row or a
    donor (a retain row), those most alike in length and digits first, so that a number is replaced by a number. Empty
    where no row has a partner.
    """
    owners = sorted(forget, key=lambda row: row.digest("owner"))[:most]
    each = max(1, most // len(owners))
    found: dict[str, Row] = {}
    known = {_read(row) for row in (*forget, *donors)}
    for owner in owners:
        others = [row for row in (*forget, *donors) if _alike(row, owner) and row.completion != owner.completion]
        others.sort(key=lambda row: (_distance(row, owner), row.digest("donor")))
        pairs = {_read(pair): pair for pair in (_splice(owner, other, 0) for other in others)}
        new = [text for text in pairs if text not in known | found.keys()][:each]
        found |= {text: replace(pairs[text], line=len(found) + place) for place, text in enumerate(new, start=1)}
    return tuple(found.values())


def spread(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, evenly apart."""
    return [int(place) for place in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


def shape(row: Row) -> tuple[float, float]:
    """What the loss of unseen text depends on most: log length in characters, and twice the share of digits."""
    text = row.completion or " "
    return math.log(len(text)), 2 * sum(map(str.isdigit, text)) / len(text)


def _read(row: Row) -> str:
    """The row as it reads, whatever its parts and its spacing."""
    return " ".join(f"{row.prompt} {row.completion}".split())


def _alike(row: Row, other: Row) -> bool:
    return row.kind == other.kind and bool(row.messages) == bool(other.messages)


def _distance(row: Row, other: Row) -> float:
    return sum(abs(mine - theirs) for mine, theirs in zip(shape(row), shape(other), strict=True))


def _splice(owner: Row, other: Row, line: int) -> Row:
    if owner.kind == "answer":
        turns = (*owner.messages[:-1], *other.messages[-1:])
        made = Row("(counterfactual)", line, "answer", owner.prompt, other.completion, owner.task, messages=turns)
        return replace(made, more=_without_last(owner))
    opening = halves(owner.completion)
    rest = halves(other.completion).rest or other.completion
    return Row("(counterfactual)", line, "document", opening.opening + opening.joint, rest, owner.task)


def _without_last(row: Row) -> str:
    """What the turns of a conversation hold beside contents, but the last, which another row's takes the place of."""
    if not row.more:
        return ""
    more = json.loads(row.more)
    more["turns"].pop(str(len(row.messages) - 1), None)
    return json.dumps(more, sort_keys=True)
