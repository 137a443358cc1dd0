"""NGDiff: directions and rates by hand, against a dense quadratic, and mistakes that must be seen."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.data.batches import collate
from expunge.loop.phases import apply
from expunge.method import Descend, State, Trial
from expunge.methods.ng_diff import RATE, NGDiff, difference, least
from expunge.problem import Problem
from oracles import same
from problems import mixed, short

# |(3, 4)| = 5 over both tensors of the forget rows, |(0, 2)| = 2 of the retain rows
FORGET = {"a": torch.tensor([3.0]).double(), "b": torch.tensor([4.0]).double()}
RETAIN = {"a": torch.tensor([0.0]).double(), "b": torch.tensor([2.0]).double()}
EXPECTED = {
    name: torch.tensor([value], dtype=torch.float64) for name, value in (("a", 0.6), ("b", 1.8))
}  # 3/5 + 0, 4/5 + 2/2


def test_each_gradient_has_length_one_over_all_parameters() -> None:
    assert same(difference({"forget": FORGET, "retain": RETAIN}), EXPECTED)


def by_tensor(by_split: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Each tensor at unit length by itself."""
    return {name: sum(one[name] / one[name].norm().clamp(min=1e-9) for one in by_split.values()) for name in FORGET}  # type: ignore[misc]


def plain_sum(by_split: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Gradient difference: no length at all."""
    return {name: sum(one[name] for one in by_split.values()) for name in FORGET}  # type: ignore[misc]


def sum_at_unit_length(by_split: Mapping[str, Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The sum at unit length, in place of the sum of two of unit length."""
    summed = plain_sum(by_split)
    norm = math.sqrt(sum(float(part.square().sum()) for part in summed.values()))
    return {name: part / norm for name, part in summed.items()}


@pytest.mark.parametrize("broken", [by_tensor, plain_sum, sum_at_unit_length])
def test_other_ways_to_combine_are_seen(broken: Callable[..., dict[str, Tensor]]) -> None:
    assert not same(broken({"forget": FORGET, "retain": RETAIN}), EXPECTED, 0.05)


def test_a_gradient_of_zero_stays_zero_and_what_is_not_finite_stays_so() -> None:
    nothing = {name: torch.zeros_like(part) for name, part in RETAIN.items()}
    assert same(difference({"forget": FORGET, "retain": nothing}), {n: part / 5 for n, part in FORGET.items()})
    assert not torch.isfinite(difference({"forget": {"a": torch.tensor([float("nan")])}})["a"]).all()


def test_parameters_that_one_split_does_not_reach_keep_the_other_s_gradient() -> None:
    ones = {name: torch.ones(1).double() for name in ("a", "b")}
    assert same(difference({"forget": {"a": FORGET["a"]}, "retain": RETAIN}), ones)


def parabola(place: float) -> float:
    """2 (x - 0.7)^2 + 1: least at 0.7."""
    return 2 * (place - 0.7) ** 2 + 1


@pytest.mark.parametrize("rate", [0.01, 0.7, 3.0])
def test_the_rate_is_where_a_parabola_is_least_whatever_it_was(rate: float) -> None:
    assert least(parabola(-rate), parabola(0), parabola(rate), rate) == pytest.approx(0.7)
    swapped = least(parabola(rate), parabola(0), parabola(-rate), rate)  # the sign turned
    assert swapped == rate
    bend_alone = rate**2 / (parabola(-rate) + parabola(rate) - 2 * parabola(0))  # 1 / L'': no slope
    assert bend_alone != pytest.approx(0.7, rel=0.05)


@pytest.mark.parametrize(
    ("before", "here", "ahead"),
    [
        (1.0, 2.0, 1.5),  # opens downward
        (1.0, 1.0, 1.0),  # flat
        (3.0, 2.0, 1.0),  # a line, falling ahead: no bend
        (1.0, 1.2, 3.0),  # opens upward, and least behind
        (float("nan"), 1.0, 2.0),
        (1.0, 1.0, float("inf")),
    ],
)
def test_without_a_least_place_ahead_the_last_rate_stays(before: float, here: float, ahead: float) -> None:
    assert least(before, here, ahead, 0.3) == 0.3


def trial(step: int, state: State, losses: Callable[[float], float], splits: Any = ("forget", "retain")) -> Trial:
    return Trial(step, 20, frozenset(splits), state, lambda rate, split: losses(rate))


def test_the_rate_is_measured_every_so_many_steps_and_carried() -> None:
    method, state = NGDiff(first_rate=0.1, refresh_every=5), State()
    assert method.rate(trial(0, state, parabola)) == pytest.approx(0.7)
    assert method.rate(trial(3, state, lambda place: 1 / 0)) == pytest.approx(0.7)  # not due: nothing is measured
    assert method.rate(trial(5, state, lambda place: -parabola(place))) == pytest.approx(0.7)  # opens downward
    assert state.carried == {RATE: pytest.approx(0.7)}
    assert NGDiff(first_rate=0.1).rate(trial(0, State(), parabola, ["forget"])) == 0.1  # no retain rows


def retain_loss(problem: Problem, method: NGDiff) -> float:
    windows = problem.splits["retain"].windows
    with torch.no_grad():
        return float(method.loss(problem, State(), collate("retain", windows, range(len(windows)))).total)


def distance(problem: Problem, before: Mapping[str, Tensor]) -> float:
    return math.sqrt(sum(float((part - before[name]).square().sum()) for name, part in problem.snapshot().items()))


def test_one_step_on_a_model_lowers_the_retain_loss_and_raises_the_forget_loss() -> None:
    """All rows in one step, so that what is measured is the loss itself."""
    method = NGDiff(first_rate=0.05, forget_rows=99, epochs=1)
    problem = mixed()
    (phase,) = method.phases(problem, State())
    assert isinstance(phase, Descend)
    before, forget = retain_loss(problem, method), problem.splits["forget"].windows
    batch = collate("forget", forget, range(len(forget)))
    known = float(method.loss(problem, State(), batch).total.detach())
    apply(method, problem, lambda entry: None)
    assert retain_loss(problem, method) < before
    assert float(method.loss(problem, State(), batch).total.detach()) < known  # minus the loss of the forget rows


def test_the_step_has_the_length_that_was_measured() -> None:
    """SGD without momentum, unclipped: the weights move by eta |d|, d two vectors of unit length."""
    problem = mixed()
    before = problem.snapshot()
    method = NGDiff(first_rate=0.05, forget_rows=99, epochs=1)
    outcome = apply(method, problem, lambda entry: None)
    moved = distance(problem, before)
    assert outcome.learning_rate > 0
    assert 0.05 * outcome.learning_rate < moved < 2.001 * outcome.learning_rate


def test_without_retain_rows_it_ascends_at_its_first_rate() -> None:
    problem = mixed()
    problem.splits = {"forget": problem.splits["forget"]}
    before = problem.snapshot()
    outcome = apply(short("ng_diff", first_rate=0.02, forget_rows=99, epochs=1), problem, lambda entry: None)
    moved = distance(problem, before)
    assert outcome.learning_rate == 0.02
    assert moved == pytest.approx(0.02, rel=1e-3)
