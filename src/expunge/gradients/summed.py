"""Mean gradients of a split by ordinary autograd, for any parameter, and the squared batch means of LIBU's code."""

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from expunge import distributed
from expunge.data.batches import Batch, collate, passes
from expunge.model.losses import kept_kl, per_window, target_logits, token_nll
from expunge.problem import Problem, Split

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
        nll = token_nll(target_logits(problem.model, batch), batch)
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
            logits = target_logits(problem.model, batch)
            return kept_kl(logits.log_softmax(dim=1), *kept.of(batch)).sum() / tokens

        for name, part in _gradient(problem, split, loss).items():
            total[name] = total[name] + part if name in total else part
    return total


def _gradient(problem: Problem, split: Split, loss: Callable[[Batch], Tensor]) -> dict[str, Tensor]:
    parameters = list(problem.movable.values())
    total = [torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)) for tensor in parameters]
    for batch in passes(split.name, split.windows):
        moved = batch.to(problem.runtime.device)
        with problem.runtime.autocast():
            value = loss(moved)
        found = torch.autograd.grad(value, parameters, allow_unused=True)
        for sum_, gradient in zip(total, found, strict=True):
            if gradient is not None:
                sum_ += gradient
    named = dict(zip(problem.movable, total, strict=True))
    distributed.total_(named)
    return named


def squared_batch_means(problem: Problem, split: Split, windows: int) -> dict[str, Tensor]:
    """The mean over batches of `windows` windows of the squared gradient of each batch's mean loss, labels of the data.

    What LIBU's code calls its Fisher: neither per example nor centred, so it measures mean gradients, not curvature.
    """
    parameters = list(problem.movable.values())
    squares = [
        torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32)) for tensor in parameters
    ]
    starts = range(0, len(split.windows), windows)
    for start in distributed.share(starts):
        chosen = range(start, min(start + windows, len(split.windows)))
        batch = collate(split.name, split.windows, chosen).to(problem.runtime.device)
        with problem.runtime.autocast():
            loss = token_nll(target_logits(problem.model, batch), batch).mean()
        for square, gradient in zip(squares, torch.autograd.grad(loss, parameters, allow_unused=True), strict=True):
            if gradient is not None:
                square += gradient.to(square.dtype).square() / len(starts)
    named = dict(zip(problem.movable, squares, strict=True))
    distributed.total_(named)
    return named
