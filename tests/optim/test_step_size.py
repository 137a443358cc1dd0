"""Rules for the step on made measurements whose answers are known, and broken rules that those answers reject."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest

from expunge.errors import InputError
from expunge.optim.search import Found, Measured, Refused
from expunge.optim.step_size import TOLERANCE, Fixed, LineSearch, Planned, Restore, RetainBudget, ToTargets, Valley

BUDGET = RetainBudget(budget=0.01)
EXACT = 0.1  # where a quadratic of curvature 2 is at the budget: step^2 = 0.01


@dataclass
class Made:
    """Measures by formulas, and remembers every step it was asked for."""

    kl: Callable[[float], float]
    rise: Callable[[float], float] = lambda step: 0.0
    distance: Callable[[float], float | None] = lambda step: None
    asked: list[float] = field(default_factory=list)

    def __call__(self, step: float) -> Measured:
        self.asked.append(step)
        return Measured(retain_kl=self.kl(step), retain_rise=self.rise(step), distance=self.distance(step))


def largest(measure: Made, rule: RetainBudget = BUDGET, guess: float = EXACT) -> float:
    found = rule.find(measure, guess)
    assert isinstance(found, Found), found
    assert found.measurements == len(measure.asked) == len(set(measure.asked))
    assert found.measured == Measured(retain_kl=measure.kl(found.step), retain_rise=measure.rise(found.step))
    return found.step


def just_inside(step: float, edge: float) -> bool:
    return edge / (1 + TOLERANCE) <= step <= edge


@pytest.mark.parametrize("guess", [EXACT, 1e-4, 30.0, EXACT * 1.4])
def test_budget_on_a_quadratic_from_any_guess(guess: float) -> None:
    measure = Made(lambda step: step**2)
    assert just_inside(largest(measure, guess=guess), EXACT)
    assert len(measure.asked) <= (10 if guess in (EXACT, EXACT * 1.4) else 22)


def test_the_last_step_tried_is_not_the_last_one_accepted() -> None:
    """What a rule that returns the last step it tried would give is outside on some of these."""
    edges = [EXACT * 1.09**place for place in range(8)]
    outside = 0
    for edge in edges:
        measure = Made(lambda step, edge=edge: 0.01 * (step / edge) ** 2)  # type: ignore[misc]
        assert just_inside(largest(measure), edge)
        outside += measure.kl(measure.asked[-1]) > BUDGET.budget
    assert outside > 0


def test_the_budget_is_on_what_is_measured() -> None:
    """Cubic terms make the measured KL larger than the forecast: the forecast's own step is outside."""
    rule = RetainBudget(budget=0.01)
    guess = rule.guess(2.0, math.nan)
    assert guess == pytest.approx(EXACT)
    measure = Made(lambda step: step**2 + 40 * step**3)
    step = largest(measure, rule, guess)
    assert measure.kl(step) <= 0.01 < measure.kl(step * (1 + TOLERANCE))
    assert measure.kl(guess) == pytest.approx(0.05) and step < 0.6 * guess


def test_first_guess() -> None:
    assert BUDGET.guess(8.0, 3.0) == pytest.approx(0.05)
    for unknown in (None, 0.0, -1.0, math.nan, math.inf):
        assert BUDGET.guess(unknown, 3.0) == 3.0
    assert LineSearch().guess(8.0, 3.0) == 3.0 and Fixed(step=7.0).guess(8.0, 3.0) == 7.0


def test_the_first_region_is_kept_to() -> None:
    """Within the budget up to 0.1, outside up to 1, within again up to 3: 3 would be the largest step of all."""
    measure = Made(lambda step: 0.001 if step < 0.1 or 1 <= step < 3 else 1.0)
    assert just_inside(largest(measure, guess=0.03), 0.1)
    assert just_inside(largest(Made(measure.kl), guess=1.5), 0.1)  # begins below the guess
    assert largest(Made(measure.kl), guess=5.0) > 1  # a region that the search begins in is not seen to be the second


def test_nan_is_outside() -> None:
    measure = Made(lambda step: 0.0 if step <= 0.07 else math.nan)
    assert just_inside(largest(measure, guess=1.0), 0.07)
    rise = Made(lambda step: 0.0, rise=lambda step: 0.0 if step <= 0.07 else math.inf)
    assert just_inside(largest(rise, guess=1.0), 0.07)  # of what the budget is not on


def refused(rule: Fixed | LineSearch | RetainBudget, measure: Made, guess: float = 1.0) -> str:
    found = rule.find(measure, guess)
    assert isinstance(found, Refused)
    assert found.measurements == len(measure.asked)
    return found.reason


def test_budget_refusals_name_their_figures() -> None:
    jump = Made(lambda step: 0.5 if step else 0.0)
    assert "outside the budget" in (reason := refused(BUDGET, jump)) and "0.5" in reason and "0.01" in reason
    assert min(step for step in jump.asked if step) == 2.0**-30
    used = Made(lambda step: 0.02)
    assert "used up" in refused(BUDGET, used) and used.asked == [0.0]
    idle = Made(lambda step: 1e-9)
    assert "does nothing" in refused(BUDGET, idle) and len(idle.asked) <= 34
    for guess in (math.nan, math.inf, 0.0):
        assert "guess" in refused(BUDGET, Made(lambda step: step**2), guess)


def test_a_step_that_was_given_is_taken_unless_it_breaks_the_model() -> None:
    found = Fixed(step=2.0).find(measure := Made(lambda step: 1e6), 1.0)
    assert isinstance(found, Found) and found.step == 2.0 and measure.asked == [2.0]
    assert "nan" in refused(Fixed(step=2.0), Made(lambda step: math.nan))


@pytest.mark.parametrize("guess", [1.4e-3, 0.36, 2.8, 350.0])
def test_line_search_finds_the_valley(guess: float) -> None:
    """|2 - step| + 0.1 step^2 is least at 2, between powers of two of none of the guesses."""
    measure = Made(lambda step: 0.0, distance=lambda step: abs(2 - step) + 0.1 * step**2)
    found = LineSearch().find(measure, guess)
    assert isinstance(found, Found)
    assert found.step == pytest.approx(2.0, rel=0.05)
    best = min(measure.distance(step) or 9.0 for step in measure.asked)
    assert found.measured.distance == best
    assert found.measurements == len(measure.asked) <= 40
    power = guess * 2.0 ** round(math.log2(2.0 / guess))
    assert power != pytest.approx(2.0, rel=0.05)  # a search without refinement


def test_line_search_beside_a_cliff() -> None:
    """Falls up to 0.9, and is nan from there on."""
    measure = Made(lambda step: 0.0, distance=lambda step: 2 - step if step < 0.9 else math.nan)
    found = LineSearch().find(measure, 64.0)
    assert isinstance(found, Found) and 0.75 <= found.step < 0.9


def test_line_search_refuses_what_only_makes_it_worse() -> None:
    uphill = Made(lambda step: 0.0, distance=lambda step: 1 + step)
    assert "better than none" in refused(LineSearch(), uphill)
    flat = Made(lambda step: 0.0, distance=lambda step: 1.0)
    assert "better than none" in refused(LineSearch(), flat)
    unknown = Made(lambda step: 0.0)
    assert "no distance" in refused(LineSearch(), unknown)


def test_wrong_settings() -> None:
    for value in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match="budget"):
            RetainBudget(budget=value)
        with pytest.raises(InputError, match="step"):
            Fixed(step=value)


TO_TARGETS = ToTargets()


def way_of(goal: float) -> Callable[[float], Measured]:
    """The forget loss goes its way with the square root of the step and is there at `goal`."""
    return lambda step: Measured(retain_kl=step, retain_rise=0.0, distance=1.0, way=math.sqrt(step / goal))


@pytest.mark.parametrize("guess", [1e-6, 0.3, 0.37, 500.0])
def test_to_targets_is_the_smallest_step_that_arrives(guess: float) -> None:
    found = TO_TARGETS.find(way_of(0.37), guess)
    assert isinstance(found, Found)
    assert 0.37 <= found.step <= 0.37 * 1.051 and found.measured.way is not None and found.measured.way >= 1
    half = ToTargets(share=0.5).find(way_of(0.37), guess)
    assert isinstance(half, Found) and 0.37 / 4 <= half.step <= 0.37 / 4 * 1.051


def test_to_targets_refuses_what_never_arrives() -> None:
    stuck = TO_TARGETS.find(lambda step: Measured(retain_kl=0, retain_rise=0, distance=1, way=0.4), 1.0)
    assert isinstance(stuck, Refused) and "do not reach" in stuck.reason
    breaks = TO_TARGETS.find(
        lambda step: Measured(retain_kl=0, retain_rise=0, distance=1, way=0.4 if step < 8 else math.nan), 1.0
    )
    assert isinstance(breaks, Refused)
    there = TO_TARGETS.find(lambda step: Measured(retain_kl=0, retain_rise=0, distance=1, way=1.2), 1.0)
    assert isinstance(there, Refused) and "before the step" in there.reason


def test_restore_takes_the_newton_step_or_halves_it() -> None:
    """KL (1 - s)^2 is least at s = 1; ((1 - 6 s)^2) at a sixth, where an eighth is the best of the halvings."""
    exact = Restore().find(lambda step: Measured(retain_kl=(1 - step) ** 2, retain_rise=0.0), 1.0)
    assert isinstance(exact, Found) and exact.step == 1.0
    long = Restore().find(lambda step: Measured(retain_kl=(1 - 6 * step) ** 2, retain_rise=0.0), 1.0)
    assert isinstance(long, Found) and long.step == 0.125  # 0.25 measures 0.25, 0.125 measures 0.0625, 0.0625 0.39
    upward = Restore().find(lambda step: Measured(retain_kl=1 + step, retain_rise=0.0), 1.0)
    assert isinstance(upward, Refused) and upward.measurements == 22


@pytest.mark.parametrize(
    ("least", "asked"),
    [
        (1.0, [1, 2]),  # the parabola says that half of it is worse
        (1.4, [1, 2]),
        (3.2, [1, 2, 4, 8]),
        (0.7, [1, 2, 0.5, 0.25]),  # it says that half of it is better
        (0.3, [1, 0.25, 0.5]),
    ],
)
def test_the_valley_is_found_with_few_measurements(least: float, asked: list[float]) -> None:
    measure = Made(lambda step: (step / least - 1) ** 2)
    found = Valley().find(measure, 1.0)
    assert isinstance(found, Found)
    best = min((2.0**place for place in range(-9, 9)), key=measure.kl)
    assert found.step == best
    assert [step for step in measure.asked if step] == asked


def test_a_valley_that_is_no_parabola_is_looked_into() -> None:
    """A wall behind the guess, and no number there: half of the step is measured and taken."""
    for beyond in (9.0, math.nan):
        measure = Made(lambda step, beyond=beyond: beyond if step > 1 else (step - 0.5) ** 2)  # type: ignore[misc]
        found = Valley().find(measure, 0.9)
        assert isinstance(found, Found) and found.step == 0.45
    assert isinstance(Valley().find(Made(lambda step: 1 + step), 1.0), Refused)


def linear(step: float) -> Measured:
    """A nat of forget loss for a step of 1, at a retain KL of 0.08 step^2."""
    return Measured(retain_kl=0.08 * step * step, retain_rise=0.0, distance=None, way=None, forget=step)


@pytest.mark.parametrize(
    ("budget", "step"),
    [(None, 1.0), (0.08, 1.0), (0.02, 0.5), (0.06, 0.5 * (1 + math.sqrt(5)) / 2), (0.01, 0.25)],
)  # KL 0.02 at 0.5, and 0.0524 at 0.809, by the golden ratio longer
def test_a_planned_step_within_a_budget(budget: float | None, step: float) -> None:
    rule = Planned(budget=budget)
    found = rule.find(linear, 1.0, 1.0)
    assert isinstance(found, Found) and found.step == pytest.approx(step)
    assert rule.needs_retain == (budget is not None)


def test_a_planned_step_where_the_budget_is_used_up() -> None:
    found = Planned(budget=0.05).find(lambda step: replace(linear(step), retain_kl=0.06 + step), 1.0, 1.0)
    assert isinstance(found, Refused) and "no step is within the budget of 0.05 nats" in found.reason


def test_a_planned_step_is_right_where_the_mean_stays() -> None:
    """Rows go up and down and the mean has no way to go: what it makes by accident is no measure of the step (the
    broken variant takes 0.13 of it)."""
    found = Planned().find(lambda step: replace(linear(step), forget=5.48 + 0.044 * step), 1.0, 5.4800003)
    assert isinstance(found, Found) and found.step == 1.0
    strict = Planned(near=0.0).find(lambda step: replace(linear(step), forget=5.48 + 0.044 * step), 1.0, 5.4800003)
    assert isinstance(strict, Found) and strict.step < 0.2


@pytest.mark.parametrize("ends", [1.0, 1.5])
def test_a_planned_step_without_a_way_of_the_mean(ends: float) -> None:
    found = Planned().find(lambda step: replace(linear(step), forget=1.0 + (ends - 1.0) * step), 1.0, 1.0)
    assert isinstance(found, Found) and found.step == 1.0
    broken = Planned().find(lambda step: replace(linear(step), forget=1.0 if step < 0.5 else math.nan), 1.0, 1.0)
    assert isinstance(broken, Found) and broken.step < 0.5  # what is no number is not taken


def test_a_planned_step_is_lengthened_once() -> None:
    """Where the loss answers with half of what was planned it is half as long again; where it hardly answers, five
    times the step would be far out of the plan's reach (in a trial 1.4 nats of retain KL)."""
    asked: list[float] = []

    def measure(step: float) -> Measured:
        asked.append(step)
        return replace(linear(step), forget=0.3 * step)

    found = Planned().find(measure, 1.0, 1.0)
    assert isinstance(found, Found) and found.step == 1.5 and max(asked) == 1.5
    half = Planned().find(lambda step: replace(linear(step), forget=0.5 * step), 1.0, 1.0)
    assert isinstance(half, Found) and half.step == 1.5
