"""When a run has arrived, when it hurts, when it stalls: arithmetic on checks, no model."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NEAR = 0.2  # a row has arrived when its loss is within this share of the way from its start to its target
ARRIVED_SHARE = 0.85
RETAIN_SLACK = 0.02
GUARD_SHARE = 0.25  # of the way from what the guard rows cost the original to what unseen text costs it


@dataclass(frozen=True, slots=True)
class Check:
    """Losses at one step: forget rows [n] now, at the start and their targets; means of other rows.

    Acceptance rows, where a method has them, steer in place of the guard, which then only reports.
    """

    step: int
    forget: Floats
    start: Floats
    targets: Floats | None
    retain: float | None
    retain_start: float | None
    guard: float | None
    guard_start: float | None
    acceptance: float | None = None
    acceptance_start: float | None = None

    @property
    def finite(self) -> bool:
        """Whether all that was measured now is a number."""
        others = [one for one in (self.retain, self.guard, self.acceptance) if one is not None]
        return bool(np.isfinite(self.forget).all() and np.isfinite(others).all())

    def way(self) -> Floats:
        """Share of the way from start to target that each row has gone: 0 at the start, 1 at the target.

        Rows that start within 0.1 nats of their target have nowhere to go and count by their distance to it.
        """
        assert self.targets is not None
        distance = self.targets - self.start
        least = np.maximum(np.abs(distance), 0.1)
        return 1 - (self.targets - self.forget) * np.sign(np.where(distance == 0, 1, distance)) / least

    def travelled(self) -> bool:
        """Time to settle: the typical row is at 90 % of its way, three quarters of the rows at 75 % or beyond."""
        way = self.way()
        return bool(np.median(way) >= 0.9 and np.quantile(way, 0.25) >= 0.75)

    def arrived(self) -> bool:
        """At least 85 % of the rows within 20 % of the way, and the typical row at its target within 10 %."""
        way = self.way()
        near = np.abs(way - 1) <= NEAR
        return bool(near.mean() >= ARRIVED_SHARE and abs(float(np.median(way)) - 1) <= NEAR / 2)

    def retain_back(self) -> bool:
        """The retain rows cost at most 0.02 nats, or a hundredth of the way to unseen text, more than at the start."""
        if self.retain is None or self.retain_start is None:
            return True
        return self.retain - self.retain_start <= max(RETAIN_SLACK, 0.01 * self._span())

    def hurts(self) -> bool:
        """The loss of the rows that steer rose by more than a quarter of the way from known to unseen."""
        now, then = self.steering
        if now is None or then is None:
            return False
        rise = now - then
        return not (math.isfinite(rise) and rise <= max(GUARD_SHARE * self._span(), 0.1))

    @property
    def steering(self) -> tuple[float | None, float | None]:
        """Loss now and at the start of the rows that no gradient saw and that choose between attempts."""
        if self.acceptance is not None:
            return self.acceptance, self.acceptance_start
        return self.guard, self.guard_start

    def reason(self) -> str:
        """Why an attempt that ended here ended."""
        if self.hurts():
            return f"the {'guard' if self.acceptance is None else 'acceptance'} rows' loss rose beyond the guard"
        if not self.arrived():
            return "the attempt ended before the forget rows were at their targets"
        back = " and the retain rows are back" if self.retain_back() else "; the retain rows are not wholly back"
        return "the forget rows are at their targets" + back

    def score(self) -> float:
        """What attempts are compared by: mean distance from the targets, plus what retain rows and those that steer
        lost, in nats; inf where a part is not a number."""
        pairs = ((self.retain, self.retain_start), self.steering)
        lost = [(now, then) for now, then in pairs if now is not None and then is not None]
        assert self.targets is not None
        if not all(np.isfinite(np.array(one)).all() for one in (self.forget, self.start, self.targets, lost)):
            return math.inf  # max(0, nan) is 0, and the way from an infinite start is none
        distance = float(np.abs(1 - np.clip(self.way(), -1, 3)).mean())
        return distance + sum(max(0.0, now - then) for now, then in lost)

    def _span(self) -> float:
        return 0.0 if self.targets is None else float(np.median(self.targets - self.start))

    def figures(self) -> dict[str, float | int | None]:
        """What is logged and plotted."""
        figures: dict[str, float | int | None] = {
            "step": self.step,
            "forget": float(self.forget.mean()),
            "target": None if self.targets is None else float(self.targets.mean()),
            "arrived": None if self.targets is None else float((np.abs(self.way() - 1) <= NEAR).mean()),
            "retain": self.retain,
            "guard": self.guard,
        }
        return figures if self.acceptance is None else figures | {"acceptance": self.acceptance}
