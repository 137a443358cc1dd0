"""Looks for a learning rate: a ramp of rising rates that begins at the original and is undone.

AdamW moves every weight by about its learning rate a step, so how far the weights must go is the sum of the rates up to
the step at which the forget rows arrive. Less than half of that path, since large steps wander, is shared out over half
of the steps, and more where a step sees few of the forget rows; the course raises the rate where that was too little.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from expunge.errors import NumericalError
from expunge.optim.course import TRAVEL_SHARE

STEPS = 18
FIRST_RATE = 1e-6
GROWTH = 2.0
NEARLY = 0.9  # of the way from the original's loss to the targets: there the ramp ends
CAUTION = 0.33  # share of the path that the first half of the steps are to go: large steps wander
MOST_NOISE = 1.5  # factor for requests that take many draws: a step sees few of the rows; the course raises the rest
MENDING = (1 + TRAVEL_SHARE) / 2  # of the steps at the full rate, for a repair: its travel, and half of its settling
AfterStep = Callable[[int, Mapping[str, float]], bool]


@dataclass(frozen=True, slots=True)
class Ramp:
    """By step: the rate, the sum of the rates so far (the path), and the share of the way that the rows had gone."""

    trace: list[dict[str, float]]

    @property
    def path(self) -> float:
        return self.trace[-1]["path"] if self.trace else 0.0

    @property
    def steps(self) -> int:
        """Steps that were taken; the last one of a ramp that ended in a loss that is not finite was not."""
        return len(self.trace) - bool(self.trace and math.isnan(self.trace[-1]["way"]))

    def rate(self, steps: int, draws: float, repairs: bool) -> float:
        """The learning rate of an attempt of so many steps that take so many draws to see all forget rows.

        A repair, which does not end on arrival, has nearly all of the steps for its way: what proposals broke is about
        as far to mend.
        """
        travel = MENDING if repairs else 0.5
        return CAUTION * self.path * min(MOST_NOISE, math.sqrt(max(1.0, draws))) / (steps * travel)


def rate_at(step: int) -> float:
    """Of 0-based `step` of the ramp."""
    return FIRST_RATE * float(GROWTH**step)


def ramp(minimise: Callable[[AfterStep], int], begin: float, aim: float) -> Ramp:
    """Steps at rising rates from the mean loss `begin` of the forget rows towards their mean target `aim`.

    `minimise(after)` takes `STEPS` steps at `rate_at`, calling `after` with each step and its losses.
    """
    path: list[float] = []
    trace: list[dict[str, float]] = []

    def after(step: int, losses: Mapping[str, float]) -> bool:
        path.append(rate_at(step - 1))
        way = (losses["forget"] - begin) / (aim - begin)
        trace.append({"rate": path[-1], "path": sum(path), "way": way})
        return way >= NEARLY

    try:
        minimise(after)
    except NumericalError:
        trace.append({"rate": rate_at(len(path)), "path": sum(path), "way": float("nan")})
    return Ramp(trace)
