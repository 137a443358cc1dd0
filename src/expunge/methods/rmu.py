"""RMU: the hidden states of forget rows are led to one random direction, those of retain rows stay where they were.

    loss = mean_f |h(x) - c u|^2 / D  +  retain_weight * mean_r |h(x) - h0(x)|^2 / D

Li et al., *The WMDP benchmark* (2403.03218), equations 1 and 2: h are the states after `layer`, h0 those of the
original, u a fixed direction with entries uniform in [0, 1) at unit length, c the `steering`; means are over rows of
each one's mean over tokens. A pass runs no further than that layer, and only it and the two before it move, so the
method is cheap; it hides what later layers read more than it removes it, and a little training brings it back
(2409.18025).

Departures: all parameters of the three layers that the subspace holds may move, where the authors' code moves one
matrix of each MLP; c is `steering` times the mean length of the original's states on the forget rows (as in adaptive
RMU, 2408.06223), since lengths differ a hundredfold between models, and the paper's c, 6.5 to 300, was searched for
each; `layer` is a share of the depth, the paper's 7 of 32. Tokens are all tokens of a row but padding, as in the
authors' code, prompts among them.

When to use it: for knowledge spread over many texts (hazards, a subject), not for single rows; and to compare with.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from expunge.config.bounds import Between, Count, Positive, Weight
from expunge.data.batches import Batch
from expunge.data.passes import Passes, measuring
from expunge.errors import InputError
from expunge.method import Descend, Method, Needs, Phase, State, Terms
from expunge.model.layers import stack
from expunge.model.states import hidden_states
from expunge.problem import Problem, Split
from expunge.runs import distributed

MOVED = 3  # layers: the one whose states are read, and the two before it (the paper's)


@dataclass(frozen=True, slots=True, kw_only=True)
class RMU(Method):
    """Options of rmu."""

    depth: Annotated[float, Between(0, 1)] = 7 / 32
    """Where in the stack of layers the states are read (the paper's 7 of 32)."""
    steering: Positive = 5.0
    """Length of what forget states are led to, in lengths of the original's states (the adaptive RMU paper's value)."""
    retain_weight: Weight = 1200.0
    """Weight of the retain states (the paper's for Zephyr 7B, where c was 6.5)."""
    learning_rate: Positive = 5e-5
    """Peak learning rate of AdamW (the paper's value)."""
    steps: Count = 150
    """Steps (the paper's value)."""
    rows: Count = 4
    """Forget rows a step, and as many retain rows (the paper's value)."""

    @property
    def needs(self) -> Needs:
        return Needs(retain=True, kept={"retain": "states"}, layers=self.moved)

    def cost(self, problem: Problem) -> Passes:
        return Passes(plain=measuring(problem.splits["forget"].windows))

    def layer(self, count: int) -> int:
        """Which of so many layers is read: not the last one, after which there is nothing to stop.

        Raises `InputError` for a model of one layer.
        """
        if count < 2:
            raise InputError("rmu reads states between two layers, and this model has one. Use another --method.")
        return min(round(self.depth * count), count - 2)

    def moved(self, count: int) -> Sequence[int]:
        """Which of so many layers move."""
        last = self.layer(count)
        return range(max(0, last - MOVED + 1), last + 1)

    def init(self, problem: Problem) -> State:
        layer = self.layer(len(stack(problem.model).layers))
        retain = _kept_states(problem, problem.splits["retain"], layer)
        forget = _kept_states(problem, problem.splits["forget"], layer)
        lengths = torch.cat([states.norm(dim=1) for states in forget])
        target = self.steering * float(lengths.mean()) * direction(forget[0].shape[1], problem.seed)
        return State(
            caches={"layer": layer, "target": target.to(problem.runtime.device), "retain": retain},
            notes={"layer": layer, "length": float(lengths.mean())},
        )

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        draws = {"forget": self.rows, "retain": self.rows}
        return (Descend(loss=self.loss, draws=draws, steps=self.steps, rate=self.learning_rate),)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        states = hidden_states(problem.model, batch, state.caches["layer"])
        states = states.to(torch.promote_types(states.dtype, torch.float32))
        if batch.split == "forget":
            apart = _mean_square(states, state.caches["target"], batch)
            return Terms({"steered": apart}, apart)
        kept = torch.zeros_like(states)
        own = torch.cat([state.caches["retain"][window] for window in batch.windows.tolist()])
        kept[batch.attention] = own.to(states.device, states.dtype)
        apart = _mean_square(states, kept, batch)
        return Terms({"moved": apart}, self.retain_weight * apart)


def _mean_square(states: Tensor, wanted: Tensor, batch: Batch) -> Tensor:
    """|h - wanted|^2 / D for states h [B, T, D]: the mean over windows of each one's mean over its tokens."""
    squares = (states - wanted).square().mean(dim=2) * batch.attention
    return (squares.sum(dim=1) / batch.attention.sum(dim=1)).mean()


def direction(width: int, seed: int) -> Tensor:
    """u [D]: entries uniform in [0, 1), then at unit length."""
    drawn = torch.rand(width, generator=torch.Generator().manual_seed(seed))
    return drawn / math.sqrt(float(drawn.square().sum()))


@torch.no_grad()
def _kept_states(problem: Problem, split: Split, layer: int) -> tuple[Tensor, ...]:
    """The original's states [tokens, D] of each window, in float32 on the CPU."""
    found: dict[int, Tensor] = {}
    with problem.original() as original, problem.runtime.autocast():

        def keep(batch: Batch) -> None:
            states = hidden_states(original, batch, layer)[batch.attention].float().cpu()
            sizes = batch.attention.sum(dim=1).tolist()
            for window, own in zip(batch.windows.tolist(), states.split(sizes), strict=True):
                found[window] = own.clone()  # a view would be sent with its whole batch

        problem.over(split, keep)
    return tuple(states for _, states in sorted(distributed.gathered(found).items()))
