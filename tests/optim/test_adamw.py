"""AdamW: fused and unfused agree, whatever the layout of gradients; and without the mending of layouts they do not."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.optim.adamw import _aligned, adamw

Make = Callable[[list[Tensor]], torch.optim.Optimizer]
GENERATED = torch.Generator().manual_seed(0)
WEIGHTS = (torch.randn(5, 7, generator=GENERATED), torch.randn(7, 5, generator=GENERATED).t(), torch.ones(3))
GRADIENTS = (
    torch.randn(5, 7, generator=GENERATED),
    torch.randn(5, 7, generator=GENERATED),  # beside a transposed weight
    torch.randn(3, generator=GENERATED),
)


def ends(make: Make, gradients: tuple[Tensor, ...] = GRADIENTS) -> list[Tensor]:
    """Weights after three steps of one size, and a parameter that never gets a gradient."""
    weights = [torch.nn.Parameter(one.clone()) for one in (*WEIGHTS, torch.ones(2))]
    optimiser = make(weights)
    for group in optimiser.param_groups:
        group["lr"] = 0.1
    for _ in range(3):
        for weight, gradient in zip(weights, gradients, strict=False):
            weight.grad = gradient.clone()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
    return [weight.detach() for weight in weights]


def plain(weights: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights, lr=0.0, betas=(0.9, 0.99), weight_decay=0.1, fused=False)


def check(make: Make, gradients: tuple[Tensor, ...] = GRADIENTS) -> None:
    for found, expected in zip(ends(make, gradients), ends(plain, gradients), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)


def ours(weights: list[Tensor]) -> torch.optim.Optimizer:
    return adamw(weights, 0.1)


def without_mending(weights: list[Tensor]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(weights, lr=0.0, betas=(0.9, 0.99), weight_decay=0.1, fused=True)


def test_it_is_fused_and_moves_weights_as_the_plain_one_does() -> None:
    assert ours([torch.ones(2, requires_grad=True)]).defaults["fused"]
    check(ours)
    check(ours, (GRADIENTS[0].t().contiguous().t(), *GRADIENTS[1:]))


def test_gradients_in_another_layout_would_move_other_weights() -> None:
    with pytest.raises(AssertionError):
        check(without_mending)
    with pytest.raises(AssertionError):
        check(lambda weights: adamw(weights, 0.2))


def test_gradients_that_lie_as_their_weights_stay_where_they_are() -> None:
    weight = torch.nn.Parameter(torch.ones(2, 3))
    weight.grad = gradient = torch.ones(2, 3)
    _aligned(ours([weight]))
    assert weight.grad is gradient


@pytest.mark.parametrize("other", [{"device": "meta"}, {"dtype": torch.complex64}])
def test_it_is_not_fused_where_there_is_no_such_step(other: Any) -> None:
    assert not adamw([torch.ones(2, requires_grad=True, **other)]).defaults["fused"]
