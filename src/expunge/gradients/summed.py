"""One way to gradients by ordinary autograd: of sums over batches, all together or each split apart.

Everything is a *sum*: a caller that wants a mean says so in the weights, so parts of a batch, batches of a step and
processes add up to the same whatever their sizes.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from expunge.data.batches import Batch, dealt, passes
from expunge.model.losses import per_window, target_kl, target_nll
from expunge.problem import Problem, Split
from expunge.runs import distributed

Per = Literal["row", "token"]


@dataclass(frozen=True, slots=True)
class Terms:
    """A loss and its named parts (scalars, in nats unless the name says otherwise)."""

    parts: Mapping[str, Tensor]
    total: Tensor


@dataclass(frozen=True, slots=True)
class Summed:
    """Gradients by parameter name (those that the loss does not depend on are missing), and sums of its parts."""

    gradients: dict[str, Tensor]
    parts: dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class StepGradients:
    """Gradients by split and parameter name, and the mean values of the loss's named parts."""

    by_split: dict[str, dict[str, Tensor]]
    parts: dict[str, float]


def gradients(
    problem: Problem, batches: Sequence[Batch], loss: Callable[[Batch], Terms], apart: bool = False
) -> StepGradients:
    """Gradients of a step's batches by split, and the loss's parts, each batch with its weight.

    The batches are dealt over the processes, and all of them get the sums. Without `apart` the splits are added up as
    they come, under the name "", which holds one gradient in memory and not one a split.
    """

    def weighted(part: Batch) -> Terms:
        terms = loss(part)
        wide = {name: _wide(value.detach()) * part.weight for name, value in terms.parts.items()}
        return Terms(wide, terms.total * part.weight)

    own: dict[str, list[Batch]] = {}
    for batch in dealt(batches):
        own.setdefault(batch.split if apart else "", []).append(batch)
    summed = {split: accumulate(problem, group, weighted) for split, group in own.items()}
    every = {f"{split}\0{name}": part for split, one in summed.items() for name, part in one.gradients.items()}
    distributed.total_(every)
    found: dict[str, dict[str, Tensor]] = {}
    for key, part in every.items():
        split, name = key.split("\0")
        found.setdefault(split, {})[name] = part
    parts: dict[str, Tensor] = {}
    for one in summed.values():
        for name, value in one.parts.items():
            parts[name] = parts[name] + value if name in parts else value
    distributed.total_(parts)
    return StepGradients(found, {name: float(value) for name, value in parts.items()})


def accumulate(problem: Problem, batches: Iterable[Batch], value: Callable[[Batch], Terms]) -> Summed:
    """Gradients of the sum of `value(part)` over this process's batches, in parts that fit.

    `value` gets a part on the device and is evaluated under autocast. Where memory does not hold one, all starts over
    with smaller parts: a backward pass that was cut off has left gradients in some of the parameters. Gradients that
    the parameters hold are put aside and are back afterwards.
    """
    before = {parameter: parameter.grad for parameter in problem.model.parameters() if parameter.requires_grad}
    batches, parts = list(batches), dict[str, Tensor]()

    def add(part: Batch) -> None:
        with problem.runtime.autocast():
            terms = value(part.to(problem.runtime.device))
        problem.runtime.backward(terms.total)
        for name, one in terms.parts.items():
            parts[name] = parts.get(name, torch.zeros((), device=one.device)) + one.detach()

    try:
        while True:
            parts.clear()
            for parameter in before:
                parameter.grad = None
            waiting = [part for batch in batches for part in batch.parts(problem.portions.tokens)]
            if all(problem.portions.fits(part, add) for part in waiting):
                break
        found = {name: tensor.grad for name, tensor in problem.movable.items() if tensor.grad is not None}
    finally:
        for parameter, gradient in before.items():
            parameter.grad = gradient
    return Summed(found, parts)


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

    def loss(batch: Batch) -> Terms:
        nll = target_nll(problem.model, batch)
        share = weights[batch.rows.cpu()].to(nll.device, nll.dtype)
        return Terms({}, (per_window(nll, batch) * share).sum())

    return _of_split(problem, split, loss)


class Kept(Protocol):
    """Distributions to be near to, by batch: log-probabilities and ids [N, K] (see `model.losses.kept_kl`)."""

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]: ...


def divergence_gradient(problem: Problem, splits: Sequence[tuple[Split, Kept]]) -> dict[str, Tensor]:
    """Gradient of KL(kept, current), the mean over the tokens of all the splits, in nats per token."""
    tokens = sum(window.targets for split, _ in splits for window in split.windows)
    total: dict[str, Tensor] = {}
    for split, kept in splits:

        def loss(batch: Batch, kept: Kept = kept) -> Terms:
            return Terms({}, target_kl(problem.model, batch, kept.of(batch)).sum() / tokens)

        for name, part in _of_split(problem, split, loss).items():
            total[name] = total[name] + part if name in total else part
    return total


def _of_split(problem: Problem, split: Split, loss: Callable[[Batch], Terms]) -> dict[str, Tensor]:
    """Over all windows of a split once; zeros where nothing depends on a parameter."""
    found = accumulate(problem, passes(split.name, split.windows), loss).gradients
    every = {name: found[name] if name in found else torch.zeros_like(part) for name, part in problem.movable.items()}
    distributed.total_(every)
    return every


def _wide(value: Tensor) -> Tensor:
    return value.to(torch.promote_types(value.dtype, torch.float32))
