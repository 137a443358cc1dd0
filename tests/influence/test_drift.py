"""Drift of a curvature: the arithmetic of two diagonals, and what a model that stays, or moves, is told."""

import math

import pytest
import torch

from expunge.curvatures.kfac import KFAC
from expunge.influence.drift import LEAST_COSINE, diagonals, drift
from problems import model_of, problem_of


def test_the_arithmetic() -> None:
    """|(3, 4)| = 5, |(6, 8)| = 10: cosine 1, size 2. (1, 0) against (1, 1): cosine 1 / sqrt 2, size sqrt 2. The median
    of two is the lower one (torch)."""
    then = {"a": torch.tensor([3.0, 4.0]), "b": torch.tensor([1.0, 0.0])}
    now = {"a": torch.tensor([6.0, 8.0]), "b": torch.tensor([1.0, 1.0])}
    found = drift(then, now, 16, True)
    assert found.least_cosine == pytest.approx(1 / math.sqrt(2)) and found.cosine == pytest.approx(1 / math.sqrt(2))
    assert found.size == pytest.approx(math.sqrt(2))
    assert found.large and found.cosine < LEAST_COSINE
    turned = drift(now, then, 16, True)
    assert turned.size == pytest.approx(0.5)


def test_a_factor_without_a_gradient_now_has_gone_all_the_way() -> None:
    found = drift({"a": torch.ones(3).double()}, {}, 16, True)
    assert (found.cosine, found.size) == (0.0, 0.0) and found.large


@pytest.mark.parametrize(("size", "large"), [(1.9, False), (2.1, True), (0.55, False), (0.45, True)])
def test_large_is_a_factor_of_two(size: float, large: bool) -> None:
    a = torch.tensor([1.0, 2.0, 3.0]).double()
    assert drift({"a": a}, {"a": size * a}, 16, True).large == large


def test_a_model_that_stays_has_not_drifted_and_another_has() -> None:
    """The same rows with the same noise: to the last digit. A model of other random weights is another one."""
    one, other = (problem_of(model_of("llama", seed=seed), {"retain": (1, 2, 1, 3)}) for seed in (7, 8))
    then, again, now = (diagonals(KFAC().init(each, each.splits["retain"]).tensors) for each in (one, one, other))
    same = drift(then, again, 4, True)
    assert same.least_cosine == pytest.approx(1.0) and same.size == pytest.approx(1.0) and not same.large
    assert drift(then, now, 4, True).large
