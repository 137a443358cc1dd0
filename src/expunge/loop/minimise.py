"""The inner loop: minimises any loss over the movable parameters, one step at a time.

It owns drawing, accumulation, clipping and the refusal of losses that are not finite. What to draw and what the loss is
comes from above (a method's phase, or plain training for a retrained twin).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypedDict

import torch

from expunge.data.batches import Batch, Stream, dealt
from expunge.data.passes import MEASURING
from expunge.data.tokens import Window
from expunge.errors import NumericalError
from expunge.gradients.summed import gradients
from expunge.method import Gradients, State, Terms, Trial
from expunge.optim.stepper import Stepper
from expunge.problem import Problem
from expunge.runs import distributed
from expunge.runs.progress import Bar

AfterStep = Callable[[int, Mapping[str, float]], bool]


def linear(peak: float, steps: int, warmup: int) -> Callable[[Trial], float]:
    """Linear warm-up to `peak`, then linear decay to a tenth of it."""

    def rate(trial: Trial) -> float:
        if trial.step < warmup:
            return peak * (trial.step + 1) / (warmup + 1)
        return peak * (1 - 0.9 * (trial.step - warmup) / max(1, steps - warmup))

    return rate


class Saved(TypedDict):
    """What a minimiser needs to go on, but for the weights."""

    step: int
    drawn: list[float]
    stepper: dict[str, object]
    optimiser: dict[str, Any]
    random: torch.Tensor
    random_cuda: list[torch.Tensor]


@dataclass(slots=True)
class Minimiser:
    """Steps down a loss.

    `draws`: windows that a step takes of each stream; `rate`: the learning rate of a step, asked once its gradient is
    there; `combine`: one gradient from those of the splits, which are kept apart for it; none: their sum. `beside`: by
    split the windows of which those at the places drawn go along. `step` counts the steps taken, `tokens` (without
    padding) and `row_passes` what they sent through the model, a forward pass alone as a third.
    """

    problem: Problem
    stepper: Stepper
    streams: Mapping[str, Stream]
    draws: Mapping[str, int]
    loss: Callable[[Batch], Terms]
    rate: Callable[[Trial], float]
    steps: int
    combine: Callable[[Mapping[str, Gradients]], Gradients] | None = None
    state: State = field(default_factory=State)
    beside: Mapping[str, Sequence[Window]] = field(default_factory=dict)
    step: int = 0
    drawn: float = 0.0
    drawn_rows: float = 0.0

    @property
    def tokens(self) -> int:
        return round(self.drawn + self.stepper.tokens)

    @property
    def row_passes(self) -> float:
        return self.drawn_rows + self.stepper.rows

    def run(self, after: AfterStep, report: Bar) -> int:
        """Steps until `after(step, losses)` says stop or they are used up; returns the step reached.

        `losses` are the step's mean values of the loss's named parts. Raises `NumericalError` on a loss or gradient
        that is not finite, before that step changes a weight.
        """
        while self.step < self.steps:
            losses = self._take_step()
            self.step += 1
            report(self.step, " ".join(f"{name} {value:.2f}" for name, value in losses.items()))
            if after(self.step, losses):
                break
        return self.step

    def state_dict(self) -> Saved:
        """What it needs to go on, but for the weights; the global random states are part of it."""
        return {
            "step": self.step,
            "drawn": [self.drawn, self.drawn_rows],
            "stepper": self.stepper.state_dict(),
            "optimiser": self.stepper.optimiser.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state: Saved) -> None:
        """Puts back what `state_dict` returned, into a minimiser made anew."""
        self.step, (self.drawn, self.drawn_rows) = state["step"], state["drawn"]
        for name, stream in self.streams.items():
            stream.skip(self.draws[name], self.step)
        self.stepper.optimiser.load_state_dict(state["optimiser"])
        self.stepper.load_state_dict(state["stepper"])
        torch.set_rng_state(state["random"])
        if state["random_cuda"]:
            torch.cuda.set_rng_state_all(state["random_cuda"])

    def _take_step(self) -> dict[str, float]:
        optimiser = self.stepper.optimiser
        batches = [batch for name, stream in self.streams.items() for batch in stream.draw(self.draws[name])]
        self._count(batches)
        self.stepper.before(self.step, batches)
        found = gradients(self.problem, batches, self.loss, apart=self.combine is not None)
        direction = self.combine(found.by_split) if self.combine else found.by_split.get("", {})
        for name, tensor in self.problem.movable.items():
            tensor.grad = direction.get(name)
        norm = self.problem.runtime.clip(self.problem.movable.values(), self.stepper.clip)
        if not (math.isfinite(norm) and all(math.isfinite(value) for value in found.parts.values())):
            optimiser.zero_grad(set_to_none=True)
            raise NumericalError(f"step {self.step + 1}: the loss or its gradient is not finite.")
        splits = frozenset(batch.split for batch in batches)
        trial = Trial(self.step, self.steps, splits, self.state, partial(self._loss_at, batches))
        for group in optimiser.param_groups:
            group["lr"] = self.rate(trial)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        self.stepper.after(self.step)
        return found.parts

    def _count(self, batches: Sequence[Batch]) -> None:
        along = [
            self.beside[batch.split][place]
            for batch in batches
            if batch.split in self.beside
            for place in batch.windows.tolist()
        ]
        self.drawn += _tokens(batches) + sum(len(window.ids) for window in along)
        self.drawn_rows += _windows(batches) + len(along)

    @torch.no_grad()
    def _loss_at(self, batches: Sequence[Batch], rate: float, split: str) -> float:
        """See `Trial`."""
        chosen = [batch for batch in batches if batch.split == split]
        self.drawn += MEASURING * _tokens(chosen)
        self.drawn_rows += MEASURING * _windows(chosen)
        start, device = self.problem.snapshot(), self.problem.runtime.device
        values = [torch.zeros((), dtype=torch.float64)]

        def look(part: Batch) -> None:
            with self.problem.runtime.autocast():
                terms = self.loss(part.to(device))
            values.append(terms.total.detach().double().cpu() * part.weight)

        for tensor in self.problem.movable.values():
            if tensor.grad is not None:
                tensor.sub_(rate * tensor.grad)
        for batch in dealt(chosen):
            self.problem.portions.each(batch, look)
        self.problem.restore(start)
        summed = {"loss": torch.stack(values).sum()}
        distributed.total_(summed)
        return float(summed["loss"])


def _windows(batches: Sequence[Batch]) -> int:
    return sum(len(batch.windows) for batch in batches)


def _tokens(batches: Sequence[Batch]) -> int:
    return sum(int(batch.attention.sum()) for batch in batches)
