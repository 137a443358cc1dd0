"""A model that predicts what it is told to, and two windows, for losses whose values are worked out by hand.

Two windows over a vocabulary of four, targets marked *: A = 0 1* 2*, B = 0 3* and a padded place. The model gives
A's targets the probabilities 1/2 and 1/4, B's 1/8: losses 1 and 2 (mean 1.5, sum 3) and 3 (mean 3, sum 3), in units of
log 2. So the mean over windows is 2.25, over tokens 2.
"""

import math
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.data.batches import Batch, collate
from expunge.data.tokens import Window
from expunge.problem import Problem
from problems import problem_of

LOG2 = math.log(2)
WINDOWS = (Window(0, (0, 1, 2), (False, True, True)), Window(1, (0, 3), (False, True)))
AT_0, AT_1, B_AT_0 = (1 / 8, 1 / 2, 1 / 8, 1 / 4), (1 / 2, 1 / 8, 1 / 4, 1 / 8), (1 / 2, 1 / 4, 1 / 8, 1 / 8)
NOISE = (0.97, 0.01, 0.01, 0.01)  # predictions that no target depends on


class Fixed(torch.nn.Module):
    """A model that predicts the same distributions whatever it reads."""

    def __init__(self, distributions: Sequence[Sequence[Sequence[float]]]) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(distributions).log())

    def forward(self, **inputs: Any) -> Any:
        return SimpleNamespace(logits=self.logits)


def problem(noise: Sequence[float] = NOISE) -> Problem:
    return problem_of(Fixed([[AT_0, AT_1, noise], [B_AT_0, noise, noise]]), {})


def batch(split: str) -> Batch:
    return collate(split, WINDOWS, [0, 1])


def check_only_targets(loss: Callable[[Problem], Tensor]) -> None:
    """Predictions at padding and after the last target neither change the loss nor get a gradient."""
    made = problem()
    value = loss(made)
    value.backward()
    assert loss(problem((0.25, 0.25, 0.25, 0.25))).item() == pytest.approx(value.item())
    gradient = made.model.logits.grad
    assert gradient[0, :2].abs().sum(dim=1).gt(0).all() and gradient[1, 0].abs().sum() > 0
    assert not gradient[0, 2].any() and not gradient[1, 1:].any()
