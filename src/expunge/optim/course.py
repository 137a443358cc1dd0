"""The course of one attempt: learning rate and pressure by step, steered by checks. Arithmetic, no model.

*Travel* at a constant rate until the forget rows have arrived, then *settle* with the rate going down to nothing, so
that the pull to the targets and the pull of the rows to keep come to rest. While the rows have not begun to move, the
rate rises, so that it ends near the smallest that moves them; when they move and stall before their targets, the
pressure on the targets rises instead. Where the forget rows are at their targets before it begins, it *repairs*: the
pressure of settling from the first step, and a travel of full length, since what is to come back is the rest.
"""

from collections.abc import Mapping

import numpy as np

from expunge.optim.stopping import Check

TRAVEL_SHARE = 0.75  # of the steps, at most; the rest, or a quarter of the steps, settles
WARMUP = 6
PATIENCE = 0.3  # of the longest travel, for the rows to begin to move
LOOKS = 12  # times a travel at which rate or pressure may rise
RAISE = 1.25
ONSET = 0.1  # of the way; from there on forgetting is fast
SETTLE = 3.0  # factor on the pressure when settling begins: the targets are a constraint
STALL = 0.04  # of the way between two looks; slower, and the pressure rises
MOST_PRESSURE = 16.0
LOWEST = 0.02  # of the rate, at the end of settling

STEERED = ("rate", "pressure", "_settle_from", "_next_look", "_way")


class Course:
    """Starts at `rate`; `fixed` keeps it (a rate that the user gave); `repairs`: the rows have arrived already."""

    def __init__(self, rate: float, steps: int, fixed: bool = False, repairs: bool = False) -> None:
        self.rate, self.fixed, self.repairs, self.pressure = rate, fixed, repairs, SETTLE if repairs else 1.0
        self._travel = int(steps * TRAVEL_SHARE)
        self._settle_steps = max(1, steps - self._travel)
        self._settle_from = self._travel
        self._next_look = PATIENCE * self._travel
        self._way = 0.0

    def state_dict(self) -> dict[str, float]:
        """What checks have changed."""
        return {name: getattr(self, name) for name in STEERED}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Puts back what `state_dict` returned."""
        for name in STEERED:
            setattr(self, name, state[name])

    @property
    def end(self) -> int:
        """The step after which the attempt is over."""
        return self._settle_from + self._settle_steps

    def rate_at(self, step: int) -> float:
        """Learning rate of 0-based `step`."""
        if step < self._settle_from:
            return self.rate * min(1.0, (step + 1) / WARMUP)
        return self.rate * max(LOWEST, 1 - (step - self._settle_from) / self._settle_steps)

    def see(self, check: Check) -> None:
        """Takes a check into account: begins to settle, raises the rate, raises the pressure, or does nothing."""
        if check.step >= self._settle_from:
            return
        if check.travelled() and not self.repairs:
            self._settle_from = check.step
            self.pressure *= SETTLE
            return
        if check.step < self._next_look:
            return
        self._next_look = check.step + self._travel / LOOKS
        way = float(np.clip(check.way(), 0, 1).mean())
        stalled, self._way = way - self._way < STALL, way
        if np.median(check.way()) >= ONSET:
            self.pressure = min(MOST_PRESSURE, self.pressure * RAISE) if stalled else self.pressure
        elif not self.fixed:
            self.rate *= RAISE
