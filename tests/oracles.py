"""Slow and certain ways to what the code under test finds faster, and how nearly two findings must agree.

Shapes: b blocks, m gradients, K coordinates of a block, N targets of a batch, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.data.batches import Batch
from expunge.model.losses import target_ids
from expunge.problem import Problem, Split


def token_nll(logits: Tensor, batch: Batch) -> Tensor:
    """Negative log-likelihood [N] of each target by its logits [N, V], in nats."""
    return F.cross_entropy(logits, target_ids(batch), reduction="none")


def rank_one_inverse(gradients: Tensor, damping: float) -> Tensor:
    """(damping I + G' G)^-1 [b, K, K] for G = `gradients` [b, m, K], one gradient at a time (WoodFisher)."""
    eye = torch.eye(gradients.shape[2], dtype=gradients.dtype, device=gradients.device)
    inverse = (eye / damping).repeat(len(gradients), 1, 1)
    for index in range(gradients.shape[1]):
        gradient = gradients[:, index]
        turned = torch.einsum("bkl,bl->bk", inverse, gradient)
        denominator = 1 + (gradient * turned).sum(dim=1)
        inverse -= turned[:, :, None] * turned[:, None, :] / denominator[:, None, None]
    return inverse


def dense_power(matrix: Tensor, exponent: float) -> Tensor:
    """A symmetric, positive definite matrix [K, K] to a power, by its eigenvectors."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values**exponent) @ vectors.T


def row_gradients(problem: Problem, split: Split) -> dict[str, Tensor]:
    """[rows, *shape] by autograd, one window at a time without any padding, summed over a row's windows."""
    found = {name: torch.zeros(len(split.rows), *tensor.shape).double() for name, tensor in problem.movable.items()}
    for window in split.windows:
        logits = problem.model(input_ids=torch.tensor([window.ids]), use_cache=False).logits[0]
        places = [place for place, counts in enumerate(window.counted) if counts]
        before, labels = torch.tensor(places) - 1, torch.tensor([window.ids[place] for place in places])
        loss = torch.nn.functional.cross_entropy(logits[before], labels, reduction="sum")
        gradients = torch.autograd.grad(loss, list(problem.movable.values()), allow_unused=True)
        for name, gradient in zip(problem.movable, gradients, strict=True):
            if gradient is not None:
                found[name][window.row] += gradient
    return found


def same(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-10) -> bool:
    """Whether all tensors agree to `tolerance`, relative to the largest entry of each."""
    return found.keys() == expected.keys() and all(
        float((found[name] - expected[name]).abs().max()) <= tolerance * max(1.0, float(expected[name].abs().max()))
        for name in expected
    )


def identical(left: Any, right: Any) -> bool:
    """Whether two trees of plain values, tensors, arrays, sequences, mappings and dataclasses are equal to the last bit
    and type, mappings in their order too; nan equals nan."""
    if isinstance(left, Mapping) and isinstance(right, Mapping):
        return list(left) == list(right) and all(identical(left[key], right[key]) for key in left)
    if type(left) is not type(right):
        return False
    if isinstance(left, Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return bool(left.dtype == right.dtype and np.array_equal(left, right, equal_nan=True))
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(identical, left, right))
    if is_dataclass(left):
        return all(identical(getattr(left, one.name), getattr(right, one.name)) for one in fields(left))
    return bool(left == right or (left != left and right != right))
