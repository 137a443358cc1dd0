"""The curvature as a penalty: its gradient is that of weight * d' C d / 2, and its weight follows the budget."""

from dataclasses import replace

import pytest
import torch

from expunge.apply import apply
from expunge.errors import InputError
from expunge.methods.gradient_ascent import GradientAscent
from expunge.penalty import Penalty, PenaltySettings
from expunge.problem import Problem
from gradients.shapes import model_of, problem_of

ROWS = {"forget": (1, 1, 1), "curvature": (1, 1, 2), "acceptance": (1, 1), "unseen": (1, 2)}


def made(on: str = "retain", budget: float = 0.05) -> Penalty:
    problem = problem_of(model_of("llama"), ROWS)
    return Penalty(problem, PenaltySettings(curvature="diagonal", on=on, budget=budget))  # type: ignore[arg-type]


def moved(problem: Problem, size: float) -> None:
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in problem.movable.values():
            tensor += size * torch.randn(tensor.shape, generator=random).double()


def test_its_gradient_is_that_of_its_value() -> None:
    """Central differences of the value along a random direction; half of it, a factor forgotten, would be seen."""
    penalty = made()
    problem = penalty.problem
    penalty.weight = 3.0
    assert penalty.add() == 0.0
    moved(problem, 0.1)
    problem.model.zero_grad(set_to_none=True)
    value = penalty.add()
    direction = {name: torch.randn_like(tensor) for name, tensor in problem.movable.items()}
    slope = sum(float((tensor.grad * direction[name]).sum()) for name, tensor in problem.movable.items())
    here, values = problem.snapshot(), []
    for sign in (1, -1):
        problem.restore({name: tensor + sign * 1e-4 * direction[name] for name, tensor in here.items()})
        values.append(penalty.add())
    measured = (values[0] - values[1]) / 2e-4
    assert slope == pytest.approx(measured, rel=1e-6) and abs(measured) > 1e-3
    assert measured / 2 != pytest.approx(slope, rel=0.1)
    assert value > 0


def test_it_adds_to_the_gradients_that_are_there() -> None:
    penalty = made()
    moved(penalty.problem, 0.1)
    penalty.problem.model.zero_grad(set_to_none=True)
    penalty.add()
    once = {name: tensor.grad.clone() for name, tensor in penalty.problem.movable.items() if tensor.grad is not None}
    penalty.add()
    for name, gradient in once.items():
        assert torch.allclose(penalty.problem.movable[name].grad, 2 * gradient)


def test_the_weight_follows_the_budget() -> None:
    penalty = made(budget=0.01)
    penalty.look(1)
    assert penalty.weight == 0.5 and penalty.history[0]["retain_kl"] == pytest.approx(0, abs=1e-9)
    moved(penalty.problem, 0.5)
    for step in range(2, 5):
        penalty.look(step)
    assert penalty.weight == 4.0 and penalty.history[-1]["retain_kl"] > 0.01


def test_both_fits_on_retain_and_unseen_rows() -> None:
    assert made("retain").figures()["examples"] == 3
    assert made("unseen").figures()["examples"] == 2
    assert made("both").figures()["examples"] == 5
    with pytest.raises(InputError, match="Give --holdout"):
        problem = problem_of(model_of("llama"), {name: ROWS[name] for name in ("forget", "curvature", "acceptance")})
        Penalty(problem, PenaltySettings(curvature="diagonal", on="unseen"))


def test_it_holds_a_run_back() -> None:
    """Gradient ascent ends nearer to the original with it than without, and the record says what its weight was."""
    ends = []
    for settings in (None, PenaltySettings(curvature="diagonal", budget=1e-4)):
        problem = problem_of(model_of("llama"), {"forget": (1,) * 4, "retain": (1,) * 8})
        start = problem.snapshot()
        method = replace(GradientAscent(), learning_rate=1e-2, epochs=20)
        outcome = apply(method, problem, lambda entry: None, penalty=settings)
        ends.append(sum(float((tensor.detach() - start[name]).norm() ** 2) for name, tensor in problem.movable.items()))
    assert ends[1] < 0.8 * ends[0]
    assert outcome.notes["penalty"]["weights"][-1]["weight"] > 1 and len(outcome.notes["penalty"]["weights"]) >= 5
