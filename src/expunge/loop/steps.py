"""The one loop: minimises any loss over the movable parameters, one phase at a time.

It owns drawing, accumulation, clipping, schedule, the guard against non-finite losses and logging. What to draw and
what the loss is comes from above (a method's phase, or plain training for a retrained twin).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from expunge.data.batches import Batch, dealt
from expunge.errors import NumericalError
from expunge.influence.refresh import CurvatureRefresh
from expunge.method import Terms
from expunge.problem import Problem
from expunge.runs import distributed
from expunge.runs.progress import Bar

BETAS = (0.9, 0.99)
Draw = Callable[[int], list[Batch]]
LossFunction = Callable[[Batch], Terms]
AfterStep = Callable[[int, Mapping[str, float]], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Descent:
    """Settings of one phase: learning rate by 0-based step, most steps, the step to begin at, and the clipping norm.

    `sophia` refreshes its curvature around the steps, and has a clipping norm of its own.
    """

    rate: Callable[[int], float]
    steps: int
    begin: int = 0
    clip: float = 1.0
    sophia: CurvatureRefresh | None = None


def linear(peak: float, steps: int, warmup: int) -> Callable[[int], float]:
    """Linear warm-up to `peak`, then linear decay to a tenth of it."""

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / (warmup + 1)
        return peak * (1 - 0.9 * (step - warmup) / max(1, steps - warmup))

    return rate


def optimiser_of(
    problem: Problem, sophia: CurvatureRefresh | None = None, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """AdamW over the movable parameters, or the Sophia that was made for them, which has its own weight decay."""
    if sophia is not None:
        return sophia.optimiser
    return torch.optim.AdamW(list(problem.movable.values()), lr=0.0, betas=BETAS, weight_decay=weight_decay)


def held(optimiser: torch.optim.Optimizer) -> dict[str, Any]:
    """What `minimise` needs to go on after a step, but for the weights: the optimiser and the global random states."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"optimiser": optimiser.state_dict(), "random": torch.get_rng_state(), "random_cuda": cuda}


def take_up(optimiser: torch.optim.Optimizer, kept: Mapping[str, Any]) -> None:
    """Puts back what `held` returned."""
    optimiser.load_state_dict(kept["optimiser"])
    torch.set_rng_state(kept["random"])
    if kept["random_cuda"]:
        torch.cuda.set_rng_state_all(kept["random_cuda"])


def minimise(
    problem: Problem,
    optimiser: torch.optim.Optimizer,
    draw: Draw,
    loss: LossFunction,
    descent: Descent,
    after: AfterStep,
    report: Bar,
) -> int:
    """Steps until `after(step, losses)` says stop or they are used up; returns the step reached.

    `losses` are the step's mean values of the loss's named parts. Raises `NumericalError` on a loss or gradient that
    is not finite, before that step changes a weight.
    """
    sophia = descent.sophia
    clip = descent.clip if sophia is None else sophia.settings.clip
    for step in range(descent.begin, descent.steps):
        for group in optimiser.param_groups:
            group["lr"] = descent.rate(step)
        batches = draw(step)
        if sophia is not None:
            sophia.before(step, batches)
        losses = _accumulate(problem, batches, loss)
        norm = problem.runtime.clip(problem.movable.values(), clip)
        if not (math.isfinite(norm) and all(math.isfinite(value) for value in losses.values())):
            optimiser.zero_grad(set_to_none=True)
            raise NumericalError(f"step {step + 1}: the loss or its gradient is not finite.")
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if sophia is not None:
            sophia.after(step)
        report(step + 1, " ".join(f"{name} {value:.2f}" for name, value in losses.items()))
        if after(step + 1, losses):
            return step + 1
    return descent.steps


def _accumulate(problem: Problem, batches: Sequence[Batch], loss: LossFunction) -> dict[str, float]:
    """Gradients of the weighted sum over the batches, and its parts; of all processes' batches, on each of them.

    In parts that fit. Where memory does not hold one, this process's share of the step starts over with smaller ones:
    a backward pass that was cut off has left gradients in some of the parameters.
    """
    own, sums = list(dealt(batches)), dict[str, Tensor]()

    def add(part: Batch) -> None:
        moved = part.to(problem.runtime.device)
        with problem.runtime.autocast():
            terms = loss(moved)
        problem.runtime.backward(terms.total * moved.weight)
        for name, value in terms.parts.items():
            wide = value.detach().to(torch.promote_types(value.dtype, torch.float32))
            sums[name] = sums.get(name, torch.zeros((), device=value.device)) + wide * moved.weight

    while not all(problem.portions.fits(part, add) for part in _parts(problem, own)):
        sums.clear()
        for tensor in problem.movable.values():
            tensor.grad = None
    gradients = {name: tensor.grad for name, tensor in problem.movable.items() if tensor.grad is not None}
    distributed.total_(gradients)
    for name, gradient in gradients.items():
        problem.movable[name].grad = gradient
    distributed.total_(sums)
    return {name: float(value) for name, value in sums.items()}


def _parts(problem: Problem, batches: Sequence[Batch]) -> list[Batch]:
    return [part for batch in batches for part in batch.parts(problem.portions.tokens)]
