"""What a search for a step looks at, and how it ends: shared by the rules of `optim.step_size`. Arithmetic, no model.

A rule calls `measure(step)`, which is supplied from above and says what a step does; it answers with `Found` or, where
no step will do, with `Refused`. A step of 0 is measured too: it says where the search begins, and a caller that knows
it already can answer without work. A measurement with a value that is not finite is never taken.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from expunge.errors import InputError

FURTHEST = 30  # doublings or halvings of the guess, at most
AWFUL = 1e3  # nats: what is taken for a distance that is larger or not finite


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What the weights at a step measure, against the original.

    KL and rise of the loss on retain rows in nats per token, None for a rule that does not need them. Where the rule
    needs them: `distance` of the forget rows from their targets plus that rise, in nats; `way`, the share of its way
    from the original's to the mean target that the mean forget loss has gone; `forget`, that mean loss.
    """

    retain_kl: float | None
    retain_rise: float | None
    distance: float | None = None
    way: float | None = None
    forget: float | None = None

    @property
    def kl(self) -> float:
        assert self.retain_kl is not None
        return self.retain_kl

    @property
    def finite(self) -> bool:
        values = (self.retain_kl, self.retain_rise, self.distance, self.way, self.forget)
        return all(value is None or math.isfinite(value) for value in values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A step to take, what it measured, and how often was measured to find it."""

    step: float
    measured: Measured
    measurements: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why no step is to be taken, with the figures, and how often was measured."""

    reason: str
    measurements: int


Measure = Callable[[float], Measured]


@dataclass(slots=True)
class Tried:
    """Measures each step once."""

    measure: Measure
    known: dict[float, Measured] = field(default_factory=dict)

    def __call__(self, step: float) -> Measured:
        if step not in self.known:
            self.known[step] = self.measure(step)
        return self.known[step]

    def distance(self, step: float) -> float:
        measured = self(step)
        if measured.distance is None or not measured.finite:
            return AWFUL
        return min(measured.distance, AWFUL)

    def found(self, step: float) -> Found:
        return Found(step=step, measured=self.known[step], measurements=len(self.known))

    def refused(self, reason: str) -> Refused:
        return Refused(reason=reason, measurements=len(self.known))


def downhill(distance: Callable[[int], float], place: int) -> int:
    """The place of a local minimum over whole numbers: up as long as it falls, else down; ties end it."""
    for way in (1, -1):
        begin = place
        while abs(place) < FURTHEST and distance(place + way) < distance(place):
            place += way
        if place != begin:
            break
    return place


def usable(guess: float) -> bool:
    return math.isfinite(guess) and guess > 0


def check_positive(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InputError(f"{name}: expected a number above 0, found {value}.")


def figures_of(measured: Measured) -> str:
    named = {
        "retain KL": measured.retain_kl,
        "rise of the retain loss": measured.retain_rise,
        "distance": measured.distance,
        "forget loss": measured.forget,
    }
    return ", ".join(f"{name} {value:.3g}" for name, value in named.items() if value is not None)
