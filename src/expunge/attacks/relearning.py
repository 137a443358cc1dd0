"""A little relearning: some rows are trained on for a few steps, and others, which were not, are looked at.

Half of the forget rows are relearned and the *other* half is looked at, then the same with the halves exchanged; and
rows to keep, which hold none of the forget rows. Rows that were put away together share the directions along which they
went, so who has some of them gets the others back (Hu et al. 2024, 2406.13356; docs/results/attacks.md).

The *area* is what a row costs on average along the curve, by the trapezium rule from the first steps to the last, so
that a model whose rows come back early and stay differs from one whose rows come back at the end.

Rows are dealt by a hash that no method uses. Departures: our own number of steps and rate (`loop.relearning`); rows of
other forms are not tried.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.attack import Asks, Level, Planned, Point, Reading, Subject
from expunge.data.passes import Passes, total
from expunge.data.splits import deal
from expunge.problem import Split
from expunge.scoring.seen import Seen, averaged

STEPS = (5, 15, 30)
PARTS = {"one": 1, "other": 1}


@dataclass(frozen=True, slots=True)
class Exchange:
    """Rows that are relearned, and the places of those that are looked at."""

    relearned: Split
    others: Sequence[int]


def exchanges(forget: Split) -> tuple[Exchange, ...]:
    """Either half, relearned by itself; nothing where there are not two rows."""
    if len(forget) < 2:
        return ()
    one, other = deal(forget.rows, PARTS).values()
    return Exchange(forget.of(one, "forget"), other), Exchange(forget.of(other, "forget"), one)


@dataclass(frozen=True, slots=True)
class Relearning:
    """A curve over 5, 15 and 30 steps."""

    title: ClassVar[str] = "relearning"
    question: ClassVar[str] = "What if somebody fine-tunes the model a little, on some of the rows or on others?"
    level: ClassVar[Level] = "audit"
    asks: ClassVar[Asks] = "forgotten"
    beside_original: ClassVar[bool] = False
    twin_only: ClassVar[bool] = False
    needs_weights: ClassVar[bool] = True
    margin: ClassVar[float] = 0.1

    def run(self, subject: Subject) -> Iterator[Reading]:
        halves = [self._curve(subject, one.relearned, one.others) for one in exchanges(subject.splits["forget"])]
        if halves:
            yield from _along("the other half", {steps: _joined([curve[steps] for curve in halves]) for steps in STEPS})
        if "retain" in subject.splits:
            every = range(len(subject.splits["forget"]))
            yield from _along("rows to keep", self._curve(subject, subject.splits["retain"], every))

    def _curve(self, subject: Subject, rows: Split, places: Sequence[int]) -> dict[int, dict[str, Seen]]:
        """What is seen of the forget rows at some places, and of the never-seen rows, by steps."""
        judged = subject.judged
        judged["forget"] = judged["forget"].of(places, "forget")
        found = {}
        for trained in subject.train(rows, STEPS, 0):
            seen = dict(subject.look(trained.problem, judged))
            own = seen["forget"]
            seen["forget"] = subject.unseen(subject.splits["forget"]).at(places, own.loss, own.known)
            found[trained.steps] = seen
        return found

    def cost(self, planned: Planned) -> Passes:
        forget = planned.splits["forget"]
        curves = [(one.relearned, forget.of(one.others, "forget")) for one in exchanges(forget)]
        curves += [(planned.splits["retain"], forget)] if "retain" in planned.splits else []
        return total(
            planned.train(rows, max(STEPS), 0) + planned.look(planned.judged | {"forget": looked}).times(len(STEPS))
            for rows, looked in curves
        )


def _joined(halves: Sequence[Mapping[str, Seen]]) -> dict[str, Seen]:
    """Of each set what either half has seen, and where both have, the mean."""
    return {name: averaged([half[name] for half in halves]) for name in halves[0]}


def _along(curve: str, seen: Mapping[int, Mapping[str, Seen]]) -> Iterator[Reading]:
    """A setting for each number of steps, and one for the area under all of them."""
    for steps, one in seen.items():
        yield Reading(f"{curve}, {steps} steps", one, Point(curve, "steps of training", steps))
    if len(seen) > 1:
        shares = widths(tuple(seen))
        area = {name: averaged([one[name] for one in seen.values()], shares) for name in next(iter(seen.values()))}
        yield Reading(f"{curve}, area under {min(seen)} to {max(seen)} steps", area)


def widths(places: Sequence[int]) -> list[float]:
    """What the value at each of several places counts for in the mean along them, by the trapezium rule."""
    ends = np.diff(places, prepend=places[0], append=places[-1])
    shares: list[float] = ((ends[:-1] + ends[1:]) / 2 / (places[-1] - places[0])).tolist()
    return shares
