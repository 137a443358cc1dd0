"""Gradient checkpointing: the same gradients, less kept, and the mode left alone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from expunge.data.batches import collate
from expunge.data.portions import Portions
from expunge.errors import InputError
from expunge.gradients.per_example import Squares, measure
from expunge.model.losses import target_nll
from expunge.model.recompute import allow, recompute_layers
from expunge.problem import Problem
from problems import uneven


def gradients(problem: Problem) -> tuple[list[torch.Tensor], int]:
    """Gradients of a batch's loss, and how many values were kept for them."""
    split = problem.splits["retain"]
    batch, kept = collate("retain", split.windows, range(6)), [0]

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[0] += tensor.numel()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = target_nll(problem.model, batch).sum()
    return list(torch.autograd.grad(loss, list(problem.movable.values()))), kept[0]


@pytest.mark.parametrize("subspace", ["full", "lora"])
def test_gradients_stay_and_less_is_kept(subspace: str) -> None:
    problem = uneven(subspace)
    problem.model.eval()
    expected, before = gradients(problem)
    assert recompute_layers(problem.model)
    found, after = gradients(problem)
    assert after < 0.7 * before
    for one, other in zip(expected, found, strict=True):
        assert torch.allclose(one, other, rtol=1e-12, atol=1e-15)
    assert not problem.model.training
    assert not recompute_layers(problem.model)  # they do already


def test_per_example_gradients_stay() -> None:
    problem = uneven()
    expected = measure(problem, problem.splits["forget"], Squares, "noise").tensors
    recompute_layers(problem.model)
    found = measure(problem, problem.splits["forget"], Squares, "noise").tensors
    assert all(torch.allclose(expected[name], found[name], rtol=1e-10, atol=1e-14) for name in expected)


def test_dropout_stays_off_and_on(make_opt: Callable[..., Any]) -> None:
    """OPT's layers drop out by the mode of the very layer that is wrapped."""
    model = make_opt()
    recompute_layers(model)
    ids = torch.arange(8)[None]
    assert torch.equal(model(ids, use_cache=False).logits, model(ids, use_cache=False).logits)
    model.train()
    assert not torch.equal(model(ids, use_cache=False).logits, model(ids, use_cache=False).logits)
    model(ids, use_cache=False).logits.sum().backward()  # recomputed under the same dropout


def test_models_without_such_layers_are_refused_only_where_it_was_asked_for() -> None:
    model, portions = torch.nn.Linear(2, 2), Portions()
    with pytest.raises(InputError, match="--gradient-checkpointing"):
        allow(portions, model, asked=True)
    allow(portions, model, asked=False)
    assert portions.lighter is not None and not portions.lighter()
