"""Estimates of the diagonal of the per-token mean Gauss-Newton matrix, one backward pass a batch.

The matrix is D = diag(1/N sum_t J_t' (diag(p_t) - p_t p_t') J_t), with J_t the Jacobian of the logits that predict
target t in the parameters and p_t their softmax. With S the gradient of a loss *summed* over a batch's N targets, each
estimate is S∘S / N; what differs is the cotangent that S comes from:

`SAMPLED`   labels sampled from p_t (Liu et al. 2305.14342, section 2.3, Algorithm 2, Gauss-Newton-Bartlett). Theirs is
            N * g∘g with g = S / N the gradient of the mean loss, the same number. Unbiased; heavy-tailed where the
            model is confident, since the rare label carries all of the curvature.
`NOISE`     the noise cotangent (`gradients.cotangents`). Unbiased as well, without rare events. Our departure.

The data's own labels, which released code takes, give another thing: their cotangents do not have mean zero, so the
square measures the squared mean gradient, that is, training progress (tests/gradients/test_estimates.py).

Squaring a whole batch's gradient is unbiased only because cotangents of mean zero are independent between targets.
It costs variance: one squared normal a batch. Several small batches are steadier than a large one at the same cost.
Tied weights need no care here: autograd sums the gradients of the uses before anything is squared.

Shapes: N targets of a batch, V vocabulary.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.data.batches import Batch
from expunge.gradients.cotangents import noise_cotangent
from expunge.gradients.summed import Terms, accumulate
from expunge.model.losses import target_logits
from expunge.problem import Problem
from expunge.runs import distributed


@dataclass(frozen=True, slots=True)
class Estimate:
    """`diagonal`: one tensor for each movable parameter, in their order and shape; per-token mean, in nats.

    `targets` is the number N of targets it is a mean over; `tokens` went through the model, padding excluded.
    """

    diagonal: list[Tensor]
    targets: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Source:
    """Where the cotangent comes from.

    `surrogate(logits [N, V], batch, generator)`: a scalar whose gradient in the logits is the cotangent. `skip(shape,
    dtype, generator)`: draws what the surrogate draws for logits of that shape, and throws it away.
    """

    surrogate: Callable[[Tensor, Batch, torch.Generator], Tensor]
    skip: Callable[[tuple[int, int], torch.dtype, torch.Generator], None]


def _noisy(logits: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
    noise = torch.randn(logits.shape, generator=generator, device=logits.device, dtype=logits.dtype)
    return (logits * noise_cotangent(logits.detach(), noise)).sum()


def _skip_noise(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> None:
    torch.empty(shape, dtype=dtype, device=generator.device).normal_(generator=generator)


def _sampled(logits: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
    labels = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=generator).squeeze(1)
    return F.cross_entropy(logits, labels, reduction="sum")


def _skip_labels(shape: tuple[int, int], dtype: torch.dtype, generator: torch.Generator) -> None:
    torch.empty(shape, dtype=dtype, device=generator.device).exponential_(generator=generator)


NOISE = Source(_noisy, _skip_noise)
SAMPLED = Source(_sampled, _skip_labels)


def estimate(
    problem: Problem, batches: Iterable[Batch], generator: torch.Generator, source: Source = NOISE
) -> Estimate:
    """The diagonal over all batches: sum of each batch's S∘S, over the number of all targets.

    `generator` lies on the problem's device and is the only source of chance. Gradients that the parameters hold are
    left alone. The model runs in the mode it is in; dropout would add its own noise.
    """
    batches = list(batches)
    own = set(distributed.share(range(len(batches))))
    squares = {name: torch.zeros_like(parameter) for name, parameter in problem.movable.items()}
    for index, batch in enumerate(batches):
        if index not in own:  # another process takes it; its chance must not depend on who does
            dtype = torch.promote_types(problem.model.dtype, torch.float32)
            source.skip((int(batch.counted.sum()), problem.model.config.get_text_config().vocab_size), dtype, generator)
            continue

        def value(part: Batch) -> Terms:
            return Terms({}, source.surrogate(target_logits(problem.model, part), part, generator))

        for name, gradient in accumulate(problem, [batch], value).gradients.items():
            squares[name].addcmul_(gradient, gradient)
    distributed.total_(squares)
    targets = sum(int(batch.counted.sum()) for batch in batches)
    tokens = sum(int(batch.attention.sum()) for batch in batches)
    return Estimate([square / max(1, targets) for square in squares.values()], targets, tokens)
