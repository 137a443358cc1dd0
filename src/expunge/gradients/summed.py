"""Mean gradients of a split, and the gradient of one batch, by ordinary autograd, for any parameter."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from expunge.data.batches import Batch
from expunge.model.losses import per_window, target_kl, target_nll
from expunge.problem import Problem, Split
from expunge.runs import distributed

Per = Literal["row", "token"]


def mean_gradient(problem: Problem, split: Split, per: Per, rows: Sequence[int] | None = None) -> dict[str, Tensor]:
    """Gradient of the split's mean loss, in nats per token: the mean over rows of each row's mean, or over tokens.

    `rows`: only these places count (and are counted). Parameters that the loss does not depend on get zeros.
    """
    chosen = set(range(len(split.rows)) if rows is None else rows)
    targets = torch.zeros(len(split.rows))
    for window in split.windows:
        targets[window.row] += window.targets
    counted = torch.tensor([row in chosen for row in range(len(split.rows))])
    weights = counted / targets / counted.sum() if per == "row" else counted / (targets * counted).sum()

    def loss(batch: Batch) -> Tensor:
        nll = target_nll(problem.model, batch)
        share = weights[batch.rows.cpu()].to(nll.device, nll.dtype)
        return (per_window(nll, batch) * share).sum()

    return _gradient(problem, split, loss)


class Kept(Protocol):
    """Distributions to be near to, by batch: log-probabilities and ids [N, K] (see `model.losses.kept_kl`)."""

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]: ...


def divergence_gradient(problem: Problem, splits: Sequence[tuple[Split, Kept]]) -> dict[str, Tensor]:
    """Gradient of KL(kept, current), the mean over the tokens of all the splits, in nats per token."""
    tokens = sum(window.targets for split, _ in splits for window in split.windows)
    total: dict[str, Tensor] = {}
    for split, kept in splits:

        def loss(batch: Batch, kept: Kept = kept) -> Tensor:
            return target_kl(problem.model, batch, kept.of(batch)).sum() / tokens

        for name, part in _gradient(problem, split, loss).items():
            total[name] = total[name] + part if name in total else part
    return total


def _gradient(problem: Problem, split: Split, loss: Callable[[Batch], Tensor]) -> dict[str, Tensor]:
    parameters = list(problem.movable.values())
    total = [torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)) for tensor in parameters]

    def add(batch: Batch) -> None:
        with problem.runtime.autocast():
            value = loss(batch)
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        for sum_, gradient in zip(total, found, strict=True):
            if gradient is not None:
                sum_ += gradient

    problem.over(split, add)
    named = dict(zip(problem.movable, total, strict=True))
    distributed.total_(named)
    return named


def batch_gradient(problem: Problem, batch: Batch, loss: Callable[[Batch], Tensor]) -> list[Tensor | None]:
    """Gradient of each movable parameter of a loss that is a *sum* over the windows of a batch, in parts that fit."""
    parameters = list(problem.movable.values())
    total: list[Tensor | None] = [None] * len(parameters)

    def add(part: Batch) -> None:
        with problem.runtime.autocast():
            value = loss(part.to(problem.runtime.device))
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        for place, gradient in enumerate(found):
            before = total[place]
            total[place] = gradient if before is None else before if gradient is None else before + gradient

    problem.portions.each(batch, add)
    return total
