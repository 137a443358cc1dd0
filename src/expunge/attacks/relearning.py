"""A little relearning: some rows are trained on for a few steps, and others, which were not, are looked at.

Half of the forget rows are relearned and the *other* half is looked at, then the same with the halves exchanged; then
rows to keep, which hold none of the forget rows; then text that has nothing to do with any row, as anybody's fine-tune
would be. Rows that were put away together share the directions along which they went, so who has some of them gets the
others back (Hu et al. 2024, 2406.13356; docs/results/attacks.md). Unrelated text can do so too (Lucki et al. 2024,
2409.18025).

The *area* is what a row costs on average along the curve, by the trapezium rule from the first steps to the last, so
that a model whose rows come back early and stay differs from one whose rows come back at the end.

Rows are dealt by a hash that no method uses. Departures: our own number of steps and rate (`loop.relearning`), and our
own unrelated text.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.attack import Asks, Level, Planned, Point, Reading, Subject
from expunge.data.passes import Passes, total
from expunge.data.rows import Row
from expunge.data.splits import deal
from expunge.data.tokens import encode
from expunge.problem import Problem, Split
from expunge.scoring.seen import Seen, averaged

STEPS = (5, 15, 30)
PARTS = {"one": 1, "other": 1}
UNRELATED = (
    "Rain fell on the hills all night, and by morning the brook had left its bed.",
    "To bake bread, mix flour, water, salt and yeast, and let the dough rest until it has doubled.",
    "A triangle with three equal sides has three equal angles.",
    "The old bridge was closed in winter, because nobody cleared the ice.",
    "Bees find their way back to the hive by the sun, even behind thin clouds.",
    "Wood swells when it is damp, so a door that closed in summer may stick in autumn.",
    "The train was late again, and the platform filled with people who looked at the clock.",
    "Iron rusts where water and air reach it; a coat of paint keeps both away.",
    "She tuned the violin, played one long note, and tuned it again.",
    "Water boils at a lower temperature on a high mountain than at the sea.",
    "The market opens at six, and by noon the best apples are gone.",
    "A good knife is sharpened often and a little, not rarely and much.",
    "When the tide goes out, birds come to the flats to look for worms.",
    "Paper is made of fibres that are spread in water, pressed and dried.",
    "The cat slept on the warm stones until the shade reached it.",
    "Half of a half is a quarter, and half of that is an eighth.",
    "In a long drought the leaves of the lime trees turn yellow early.",
    "He wrote the letter twice, since the first one said too much.",
    "Sound travels faster through water than through air.",
    "The soup needs more salt, a little pepper, and another quarter of an hour.",
    "Snow reflects most of the light that falls on it, so clear days in winter dazzle.",
    "A ladder should stand on firm ground and lean neither too steep nor too flat.",
    "The museum keeps its drawings in the dark, as light bleaches them.",
    "Goats climb where sheep would not go.",
)


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


def unrelated(problem: Problem) -> Split:
    """Text that no row has anything to do with, as the problem's tokenizer reads it."""
    rows = tuple(Row("unrelated text", line, "document", "", text) for line, text in enumerate(UNRELATED, start=1))
    return Split("unrelated", rows, tuple(encode(rows, problem.rendering, problem.tokenizer)))


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
        every = range(len(subject.splits["forget"]))
        if "retain" in subject.splits:
            yield from _along("rows to keep", self._curve(subject, subject.splits["retain"], every))
        yield from _along("unrelated text", self._curve(subject, unrelated(subject.problem), every))

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
        curves += [(unrelated(planned.problem), forget)]
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
