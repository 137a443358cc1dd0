"""How far to go along a proposed direction: a fixed step, a line search, or the largest step within a retain budget.

Arithmetic, no model (see `optim.search`). The rules and their numbers are our own choice, except that the first guess
of the budget is the usual trust region: half of step^2 * bend is the curvature's own forecast.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

from scipy.optimize import minimize_scalar

from expunge.optim.search import (
    AWFUL,
    FURTHEST,
    Found,
    Measure,
    Measured,
    Refused,
    Tried,
    check_positive,
    downhill,
    figures_of,
    usable,
)

BELOW = 2  # halvings of the guess at which the budget's search begins, so that it comes from below
GOLDEN = (1 + math.sqrt(5)) / 2
TOLERANCE = 0.05  # relative: a step that is a twentieth longer was outside the budget
HALVINGS = 20  # of a Newton step, at most
FINE = 0.05  # width in log step at which the line search ends
MOST_FINE = 12  # its measurements, at most
USUAL = 10  # measurements of a search, for plans: three steps from below, five to bisect, two to spare
SHORTER, LONGER = 0.6, 1.5  # factors on a planned step that went too far, or not far enough


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """The step that was given, unless what it measures is not finite."""

    needs_distance: ClassVar[bool] = False
    needs_forget: ClassVar[bool] = True
    needs_retain: ClassVar[bool] = True
    usual: ClassVar[int] = 1

    step: float

    def __post_init__(self) -> None:
        check_positive("step", self.step)

    def guess(self, bend: float | None, otherwise: float, last: float | None = None) -> float:
        return self.step

    def find(self, measure: Measure, guess: float, aim: float | None = None) -> Found | Refused:
        tried = Tried(measure)
        measured = tried(self.step)
        if not measured.finite:
            return tried.refused(f"a step of {self.step:.3g} measures {figures_of(measured)}")
        return tried.found(self.step)


@dataclass(frozen=True, slots=True, kw_only=True)
class LineSearch:
    """The step of the least distance: powers of two from the guess bracket it, Brent's bounded search refines it.

    The best of all measured steps is taken. Only the first valley below the guess, or around it, is looked at.
    """

    needs_distance: ClassVar[bool] = True
    needs_forget: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = True
    usual: ClassVar[int] = USUAL

    def guess(self, bend: float | None, otherwise: float, last: float | None = None) -> float:
        return otherwise

    def find(self, measure: Measure, guess: float, aim: float | None = None) -> Found | Refused:
        tried = Tried(measure)
        if not usable(guess):
            return tried.refused(f"the first guess of a step is {guess:.3g}")
        none = tried.distance(0.0)
        if none >= AWFUL:
            return tried.refused(f"without a step there is no distance to go by: {figures_of(tried(0.0))}")
        places = range(0, -FURTHEST - 1, -1)
        place = next((place for place in places if tried.distance(guess * 2.0**place) < none), None)
        if place is None:
            least = min(step for step in tried.known if step)
            return tried.refused(f"no step is better than none ({none:.3g} nats), down to {least:.3g}")
        place = downhill(lambda at: tried.distance(guess * 2.0**at), place)
        middle = math.log(guess) + place * math.log(2)
        minimize_scalar(
            lambda log_step: tried.distance(math.exp(log_step)),
            bounds=(middle - math.log(2), middle + math.log(2)),
            method="bounded",
            options={"xatol": FINE, "maxiter": MOST_FINE},
        )
        return tried.found(min((step for step in tried.known if step), key=tried.distance))


@dataclass(frozen=True, slots=True, kw_only=True)
class RetainBudget:
    """The largest step, in the first contiguous region, whose *measured* retain KL is within `budget`.

    In nats per token, against the original. The search comes from below in doublings,
    and bisects in log step between the last step inside and the first outside; a region outside that is narrower than
    a doubling may be stepped over. What is returned was measured inside.
    """

    needs_distance: ClassVar[bool] = False
    needs_forget: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = True
    usual: ClassVar[int] = USUAL

    budget: float

    def __post_init__(self) -> None:
        check_positive("budget", self.budget)

    def guess(self, bend: float | None, otherwise: float, last: float | None = None) -> float:
        """Where the curvature forecasts that the budget is used up, if it is known."""
        known = bend is not None and math.isfinite(bend) and bend > 0
        return math.sqrt(2 * self.budget / bend) if known and bend else otherwise

    def find(self, measure: Measure, guess: float, aim: float | None = None) -> Found | Refused:
        tried = Tried(measure)
        if not usable(guess):
            return tried.refused(f"the first guess of a step is {guess:.3g}")
        if not self._inside(tried(0.0)):
            return tried.refused(f"the {self._words} is used up before the step: {figures_of(tried(0.0))}")
        inside, outside = self._bracket(tried, guess)
        if inside is None:
            assert outside is not None
            return tried.refused(
                f"even a step of {outside:.3g} is outside the {self._words}: {figures_of(tried(outside))}"
            )
        if outside is None:
            return tried.refused(
                f"even a step of {inside:.3g} does not reach the {self._words}: {figures_of(tried(inside))}; the "
                "direction does nothing"
            )
        while outside / inside > 1 + TOLERANCE:
            middle = math.sqrt(inside) * math.sqrt(outside)
            inside, outside = (middle, outside) if self._inside(tried(middle)) else (inside, middle)
        return tried.found(inside)

    def _bracket(self, tried: "Tried", guess: float) -> tuple[float | None, float | None]:
        """The last step inside and the first outside, a factor of two apart; None where there is none."""
        lowest, step = guess * 2.0**-FURTHEST, guess * 2.0**-BELOW
        while not self._inside(tried(step)):
            if step <= lowest:
                return None, step
            step /= 2
        while step < guess * 2.0**FURTHEST:
            if not self._inside(tried(2 * step)):
                return step, 2 * step
            step *= 2
        return step, None

    def _inside(self, measured: Measured) -> bool:
        return measured.finite and measured.kl <= self.budget

    @property
    def _words(self) -> str:
        return f"budget of {self.budget:.3g} nats per token of retain KL"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToTargets:
    """The smallest step at which the mean forget loss has gone `share` of its way to the mean target, at any cost.

    For comparisons at equal forget loss. Doublings or halvings of the guess bracket it, then log steps are bisected.
    """

    needs_distance: ClassVar[bool] = True
    needs_forget: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = True
    usual: ClassVar[int] = USUAL

    share: float = 1.0

    def __post_init__(self) -> None:
        check_positive("share", self.share)

    def guess(self, bend: float | None, otherwise: float, last: float | None = None) -> float:
        return otherwise

    def find(self, measure: Measure, guess: float, aim: float | None = None) -> Found | Refused:
        tried = Tried(measure)
        if not usable(guess):
            return tried.refused(f"the first guess of a step is {guess:.3g}")
        if self._there(tried(0.0)):
            return tried.refused("the forget rows are at their targets before the step")
        short, there = 0.0, guess
        while not self._there(tried(there)):
            if not tried(there).finite or there >= guess * 2.0**FURTHEST:
                return tried.refused(f"the forget rows do not reach their targets: {figures_of(tried(there))}")
            short, there = there, 2 * there
        while short == 0.0:
            if there <= guess * 2.0**-FURTHEST:
                return tried.refused(f"even a step of {there:.3g} takes the forget rows beyond their targets")
            short, there = (0.0, there / 2) if self._there(tried(there / 2)) else (there / 2, there)
        while there / short > 1 + FINE:
            middle = math.sqrt(short) * math.sqrt(there)
            short, there = (short, middle) if self._there(tried(middle)) else (middle, there)
        return tried.found(there)

    def _there(self, measured: Measured) -> bool:
        return measured.finite and measured.way is not None and measured.way >= self.share


@dataclass(frozen=True, slots=True, kw_only=True)
class Restore:
    """A Newton step down the retain KL: 1, halved while the measured KL falls further, the best of those taken.

    Refused where no step of 1 down to 2^-20 lowers it.
    """

    needs_distance: ClassVar[bool] = False
    needs_forget: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = True
    usual: ClassVar[int] = USUAL

    def guess(self, bend: float | None, otherwise: float, last: float | None = None) -> float:
        return 1.0

    def find(self, measure: Measure, guess: float, aim: float | None = None) -> Found | Refused:
        tried = Tried(measure)
        best, least = 0.0, tried(0.0).kl
        for halvings in range(HALVINGS + 1):
            measured = tried(2.0**-halvings)
            if measured.finite and measured.kl < least:
                best, least = 2.0**-halvings, measured.kl
            elif best:
                break
        if not best:
            return tried.refused(f"no step down to {2.0**-HALVINGS:.3g} lowers the retain KL of {least:.3g}")
        return tried.found(best)


@dataclass(frozen=True, slots=True, kw_only=True)
class Valley:
    """The step of the least retain KL down a direction: quarters of the guess until it falls, then factors of two.

    Where twice as long a step is worse, half of it is measured only if the parabola through the two and no step has it
    better. The guess is the step taken last, at first `first`. Refused where no step down to 4^-`quarters` of it lowers
    the KL. For directions that are no Newton step of what is measured, taken from other rows and other weights, so that
    1 means little (1/512 to 1/128 was best in trials on four models).
    """

    needs_distance: ClassVar[bool] = False
    needs_forget: ClassVar[bool] = False
    needs_retain: ClassVar[bool] = True
    usual: ClassVar[int] = 4

    quarters: int = 6
    first: float = 1 / 256

    def guess(self, bend: float | None, otherwise: float, last: float | None = None) -> float:
        return last or self.first

    def find(self, measure: Measure, guess: float, aim: float | None = None) -> Found | Refused:
        tried = Tried(measure)
        none = tried(0.0).kl

        def kl(place: int) -> float:
            measured = tried(guess * 2.0**place)
            return measured.kl if measured.finite else math.inf

        begin = next((place for place in range(0, -2 * self.quarters - 1, -2) if kl(place) < none), None)
        if begin is None:
            return tried.refused(f"no step down to {guess / 4.0**self.quarters:.3g} lowers the retain KL of {none:.3g}")
        here, further = kl(begin), kl(begin + 1)
        turns = further >= here and 3 * none - 2 * here - further >= 0  # no less at half of the step, by the parabola
        return tried.found(guess * 2.0 ** (begin if turns else downhill(kl, begin)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """A step of 1 that was planned to bring the mean forget loss somewhere, corrected where it did not.

    `find` is told the plan (`Proposal.forget_aim`). A step that went more than `over` of the planned way is shortened
    by the factor 0.6, at most `most` times; one that went less than `under` of it is lengthened by 1.5, once: the next
    is planned from there. The step that came nearest is taken. One that ends within `near` (nats per token) of the plan
    is right, however short the way of the mean is: single rows may have far to go, to either side. With a `budget`
    (nats per token of retain KL, against the original) it is halved until it is within that, then lengthened once by
    the golden ratio where it stays so; what is returned was measured inside.
    """

    needs_distance: ClassVar[bool] = False
    needs_forget: ClassVar[bool] = True
    usual: ClassVar[int] = 2

    over: float = 1.3
    under: float = 0.6
    most: int = 4
    near: float = 0.05
    budget: float | None = None

    @property
    def needs_retain(self) -> bool:
        return self.budget is not None

    def guess(self, bend: float | None, otherwise: float, last: float | None = None) -> float:
        return 1.0

    def find(self, measure: Measure, guess: float, aim: float | None = None) -> Found | Refused:
        if aim is None:
            raise ValueError("a planned step needs the loss that it was planned to reach")
        tried = Tried(measure)
        begin = tried(0.0).forget
        assert begin is not None
        shares: dict[float, float] = {}
        step = guess
        for _ in range(self.most + 1):
            measured = tried(step)
            if measured.forget is None or not measured.finite:
                shares[step] = math.inf
            elif aim == begin or abs(measured.forget - aim) <= self.near:
                shares[step] = 1.0
            else:
                shares[step] = (measured.forget - begin) / (aim - begin)
            if not math.isfinite(shares[step]) or shares[step] > self.over:
                step *= SHORTER
            elif shares[step] < self.under and step <= guess:
                step *= LONGER
            else:
                break
            if step in shares:
                break
        known = {one: share for one, share in shares.items() if math.isfinite(share)}
        if not known:
            return tried.refused(f"no step down to {min(shares):.3g} measures a finite loss")
        return self._within(tried, min(known, key=lambda one: abs(known[one] - 1)))

    def _within(self, tried: "Tried", step: float) -> Found | Refused:
        """The step, or what of it is within the budget."""

        def inside(one: float) -> bool:
            return self.budget is None or (tried(one).finite and tried(one).kl <= max(self.budget, tried(0.0).kl))

        if inside(step):
            return tried.found(step)
        inner = next((one for n in range(1, HALVINGS) if inside(one := step * 2.0**-n)), None)
        if inner is None:
            return tried.refused(f"no step is within the budget of {self.budget:.3g} nats per token of retain KL")
        longer = inner * GOLDEN
        return tried.found(longer if inside(longer) else inner)


StepRule = Fixed | LineSearch | RetainBudget | ToTargets | Restore | Valley | Planned
