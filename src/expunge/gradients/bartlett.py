"""Estimates of the diagonal of the per-token mean Gauss-Newton matrix, one backward pass a batch.

The matrix is D = diag(1/N sum_t J_t' (diag(p_t) - p_t p_t') J_t), with J_t the Jacobian of the logits that predict
target t in the parameters and p_t their softmax. With S the gradient of a loss *summed* over a batch's N targets, each
estimate is S∘S / N; what differs is the cotangent that S comes from:

`bartlett`  labels sampled from p_t (Liu et al. 2305.14342, section 2.3, Algorithm 2, Gauss-Newton-Bartlett). Theirs is
            N * g∘g with g = S / N the gradient of the mean loss, the same number. Unbiased; heavy-tailed where the
            model is confident, since the rare label carries all of the curvature.
`noise`     the noise cotangent (`gradients.cotangents`). Unbiased as well, without rare events. Our departure.
`squared`   the data's own labels. Biased: their cotangents do not have mean zero, so it measures the squared mean
            gradient, that is, training progress. What released code takes for curvature; kept to compare with.

Squaring a whole batch's gradient is unbiased only because cotangents of mean zero are independent between targets.
It costs variance: one squared normal a batch. Several small batches are steadier than a large one at the same cost.
Tied weights need no care here: autograd sums the gradients of the uses before anything is squared.

Shapes: N targets of a batch, V vocabulary.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.data.batches import Batch
from expunge.gradients.cotangents import noise_cotangent
from expunge.gradients.summed import batch_gradient
from expunge.model.losses import target_ids, target_logits
from expunge.problem import Problem
from expunge.runs import distributed

Estimator = Literal["noise", "bartlett", "squared"]


@dataclass(frozen=True, slots=True)
class Estimate:
    """`diagonal`: one tensor for each movable parameter, in their order and shape; per-token mean, in nats.

    `targets` is the number N of targets it is a mean over; `tokens` went through the model, padding excluded.
    """

    diagonal: list[Tensor]
    targets: int
    tokens: int


def estimate(problem: Problem, batches: Iterable[Batch], generator: torch.Generator, estimator: Estimator) -> Estimate:
    """The diagonal over all batches: sum of each batch's S∘S, over the number of all targets.

    `generator` lies on the problem's device and is the only source of chance. Gradients that the parameters hold are
    left alone. The model runs in the mode it is in; dropout would add its own noise.
    """
    batches = list(batches)
    own = set(distributed.share(range(len(batches))))
    squares = {name: torch.zeros_like(parameter) for name, parameter in problem.movable.items()}
    for place, batch in enumerate(batches):
        if place in own:
            _add_squares(problem, batch, generator, estimator, squares)
        else:
            _pass_over(problem, batch, generator, estimator)
    distributed.total_(squares)
    targets = sum(int(batch.counted.sum()) for batch in batches)
    tokens = sum(int(batch.attention.sum()) for batch in batches)
    return Estimate([square / max(1, targets) for square in squares.values()], targets, tokens)


def _add_squares(
    problem: Problem, batch: Batch, generator: torch.Generator, estimator: Estimator, squares: dict[str, Tensor]
) -> None:
    def surrogate(part: Batch) -> Tensor:
        return _surrogate(target_logits(problem.model, part), part, generator, estimator)

    for square, gradient in zip(squares.values(), batch_gradient(problem, batch, surrogate), strict=True):
        if gradient is not None:
            square.addcmul_(gradient, gradient)


def _pass_over(problem: Problem, batch: Batch, generator: torch.Generator, estimator: Estimator) -> None:
    """Draws what another process draws for this batch, so that a batch has the same chance whoever takes it."""
    if estimator == "squared":
        return
    shape = (int(batch.counted.sum()), problem.model.config.vocab_size)
    dtype = torch.promote_types(problem.model.dtype, torch.float32)
    drawn = torch.empty(shape, dtype=dtype, device=generator.device)
    drawn.normal_(generator=generator) if estimator == "noise" else drawn.exponential_(generator=generator)


def _surrogate(logits: Tensor, batch: Batch, generator: torch.Generator, estimator: Estimator) -> Tensor:
    """A scalar whose gradient in the logits [N, V] is the estimator's cotangent."""
    if estimator == "noise":
        noise = torch.randn(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)
        return (logits * noise_cotangent(logits.detach(), noise)).sum()
    if estimator == "bartlett":
        labels = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=generator).squeeze(1)
    else:
        labels = target_ids(batch)
    return F.cross_entropy(logits, labels, reduction="sum")
