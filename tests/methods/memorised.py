"""A small model that has memorised its forget and retain rows, for the tests of margin_newton."""

import random
from typing import Any

import pytest
import torch

from expunge.methods.margin_newton import MarginNewton
from expunge.problem import Problem
from expunge.reference.cache import row_losses
from problems import rows_of, text_problem


def rows(count: int, name: str) -> Any:
    """Answers that nobody can guess, and two documents."""
    chance = random.Random(name)
    return rows_of(
        name,
        ["".join(chance.choices("0123456789", k=4)) for _ in range(count)],
        [f"{name} is " + "".join(chance.choices("abcdefgh", k=8)) for _ in range(2)],
    )


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    """A small model that has memorised its forget and retain rows."""
    problem = made()
    split = problem.splits["forget"].joined(problem.splits["retain"])
    from expunge.loop.training import Training, train

    problem.movable = dict(problem.model.named_parameters())
    for tensor in problem.movable.values():
        tensor.requires_grad_(True)
    train(problem, split, Training(epochs=60, learning_rate=5e-3, batch_rows=8), "training")
    return problem.snapshot()


def made(**others: Any) -> Problem:
    given = {name: rows(count, name) for name, count in (("forget", 4), ("retain", 18), ("unseen", 10))}
    return text_problem(given, linear=True, width=48, heads=4, **others)


def trained(weights: dict[str, torch.Tensor]) -> Problem:
    problem = made()
    with torch.no_grad():
        for name, tensor in problem.model.named_parameters():
            tensor.copy_(weights[name])
    return problem


def losses(problem: Problem, name: str) -> torch.Tensor:
    return row_losses(problem, problem.model, problem.splits[name])


FAST = MarginNewton(iterations=4, restorations=2, keep_rows=16, held_rows=0)
