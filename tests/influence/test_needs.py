"""Needs of rows and weights of tokens, by hand; and what must be seen."""

import math

import numpy as np
import pytest
import torch

from expunge.influence.needs import FURTHEST, Tokens, needs, token_weights
from expunge.model.losses import margin_cotangent, margins, nll


def double(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


ROWS = torch.tensor([0, 0, 1])


def tokens(margins: torch.Tensor, weights: torch.Tensor) -> Tokens:
    return Tokens(ROWS, margins, weights, 2)


def test_margins_by_hand() -> None:
    # p = (1/2, 1/4, 1/8, 1/8): log p - log(1 - p) = log 1 = 0, log 1/3, log 1/7; with -log p = softplus(-m)
    logits = double(4, 2, 1, 1).log()[None].expand(3, 4) + 5  # what is added to all does not count
    ids = torch.tensor([0, 1, 2])
    found = margins(logits, ids)
    assert found.tolist() == pytest.approx([0, -math.log(3), -math.log(7)])
    assert torch.nn.functional.softplus(-found).tolist() == pytest.approx(nll(logits, ids).tolist())
    assert found.tolist() != pytest.approx((-nll(logits, ids)).tolist(), abs=0.1)  # the loss in its place


def test_margins_stay_exact_where_p_rounds_to_one() -> None:
    logits = torch.tensor([[40.0, 0.0, 0.0]])
    assert float(margins(logits, torch.tensor([0]))) == pytest.approx(40 - math.log(2), abs=1e-5)
    assert float(nll(logits, torch.tensor([0]))) == 0.0  # from which no margin comes back


def test_the_cotangent_is_the_gradient_of_the_margin() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    ids = torch.tensor([0, 3, 6, 2, 2])
    (expected,) = torch.autograd.grad(margins(logits, ids).sum(), logits)
    found = margin_cotangent(logits.detach(), ids)
    assert torch.allclose(found, expected, atol=1e-14)
    assert torch.allclose(found.sum(dim=1), torch.zeros(5).double(), atol=1e-14)
    (loss,) = torch.autograd.grad(nll(logits, ids).sum(), logits)
    sure = torch.tensor([[30.0, 0, 0]]).double()
    assert margin_cotangent(sure, torch.tensor([0])).norm() > 1  # the loss's gradient is 1e-13 there
    assert not torch.allclose(found, -loss, atol=0.01)


def test_a_single_token_s_need_by_hand() -> None:
    # softplus(-(m - c)) = log 4 means exp(c - m) = 3: c = m + log 3
    row = Tokens(torch.tensor([0]), double(8.0), double(1.0), 1)
    assert float(needs(row, double(math.log(4)))) == pytest.approx(8 + math.log(3))


def test_needs_by_hand_with_weights() -> None:
    # row 0: margins 10 and 2 of weights 1 and 0: only the first falls. softplus(-2) = 0.126928. Mean loss 1 means the
    # first costs 2 - 0.126928 = 1.873072, so exp(c - 10) = exp(1.873072) - 1 = 5.508, c = 10 + 1.706
    # row 1: margin 3 of weight 1/2, loss log 2: its margin at 0, c / 2 = 3, c = 6
    given = tokens(double(10, 2, 3), double(1, 0, 0.5))
    found = needs(given, double(1.0, math.log(2)))
    assert found.tolist() == pytest.approx([10 + math.log(math.exp(2 - 0.12692801104) - 1), 6.0], rel=1e-9)
    assert given.losses(found).tolist() == pytest.approx([1.0, math.log(2)])
    # M = sum w m / sum w: row 0 falls by c, row 1 by c (1/4) / (1/2) = c / 2
    assert given.weighted(found).tolist() == pytest.approx([float(found[0]), 3.0])
    assert given.shares().tolist() == pytest.approx([1.0, 0.0, 1.0])


def test_rows_past_their_targets_come_back_and_those_at_them_stay() -> None:
    given = tokens(double(-4, -4, 1), double(1, 1, 1))
    found = needs(given, torch.stack([double(1.0)[0], given.losses()[1]]))
    assert found[0] < 0 and float(found[1]) == pytest.approx(0, abs=1e-9)
    turned = needs(given, given.losses() + 1)  # a need is upward only where the loss is to rise
    assert (turned > 0).all()


def test_what_cannot_be_reached_is_at_the_end_of_the_range() -> None:
    given = tokens(double(5, 5, 5), double(1, 1, 1))
    assert needs(given, double(1e6, 0.0)).tolist() == pytest.approx([FURTHEST, -FURTHEST])


def test_token_weights_by_hand() -> None:
    # gained (6, -1) and (2): row 0's most is 6, row 1's 2
    rows, nothing = torch.tensor([0, 0, 0, 1]), double(-9, -9, -9, -9)
    found = token_weights(double(10, 1, 4, 3), double(4, 2, 1, 1), nothing, rows, 2)
    assert found.tolist() == pytest.approx([1.0, 0.0, 0.5, 1.0])
    assert token_weights(double(1, 2), double(5, 5), double(0, 0), torch.tensor([0, 0]), 1).tolist() == [1, 1]
    turned = token_weights(double(4, 2, 1, 1), double(10, 1, 4, 3), nothing, rows, 2)
    assert turned.tolist() != pytest.approx(found.tolist(), abs=0.1)


def test_what_other_rows_foretell_counts_like_what_a_base_knows() -> None:
    # gained 10 - max(4, 9), 4 - max(1, -9)
    found = token_weights(double(10, 4), double(4, 1), double(9, -9), torch.tensor([0, 0]), 1)
    assert found.tolist() == pytest.approx([1 / 3, 1.0])


def test_without_a_base_gains_are_those_of_the_loss() -> None:
    """Both are all but certain for the original. Of the first the wording says 0.98, of the second 0.02: it gains 0.02
    and 3.9 nats, though the margins of both fall short of the original's (by 5 and 13, the broken variant)."""
    found = token_weights(double(9, 9), None, double(4, -4), torch.tensor([0, 0]), 1)
    assert found.tolist() == pytest.approx([np.log1p(np.exp(-4)) / np.log1p(np.exp(4)), 1.0], rel=0.02)
    assert found[0] < 0.01 < 5 / 13
