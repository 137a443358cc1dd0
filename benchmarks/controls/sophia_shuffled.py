"""Sophia with a shuffled curvature: libu's second phase, each estimate on other coordinates.

The values of an estimate are permuted within each tensor, always in the same order: their scale and their spread stay,
and gamma with them, only their places are lost. Where the places matter, this does worse than `sophia_diagonal`.

When to use it: as the control of Sophia's curvature.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import torch
from torch import Tensor

from expunge.config.bounds import AtLeast, Count, Positive
from expunge.data.batches import Batch
from expunge.gradients.estimates import Estimate, estimate
from expunge.influence.refresh import WithSophia
from expunge.method import Descend, Method, Needs, Phase, State
from expunge.methods.libu import LIBU
from expunge.problem import Problem


def permuted(entries: Tensor, seed: int) -> Tensor:
    """The same entries in another order, which the seed alone decides."""
    order = torch.randperm(entries.numel(), generator=torch.Generator().manual_seed(seed))
    return entries.flatten()[order.to(entries.device)].view_as(entries)


def shuffled(problem: Problem, batches: Sequence[Batch], generator: torch.Generator) -> Estimate:
    """The estimate with the entries of each tensor permuted."""
    result = estimate(problem, batches, generator)
    return replace(result, diagonal=[permuted(part, place) for place, part in enumerate(result.diagonal)])


@dataclass(frozen=True, slots=True, kw_only=True)
class SophiaShuffled(Method):
    """Options of sophia_shuffled: those of libu's second phase."""

    learning_rate: Positive | None = None
    """Peak learning rate; none: the probe looks for it."""
    steps: Count | None = None
    """Most steps; none: as loss_matching."""
    forget_rows: Count = 24
    """Forget rows a step (as loss_matching)."""
    replay_texts: Annotated[int, AtLeast(0)] = 512
    """Texts to sample from the original; 0 for none (as loss_matching)."""
    replay_tokens: Count = 128
    """Longest replay text, in tokens (as loss_matching)."""

    @property
    def needs(self) -> Needs:
        return LIBU(**asdict(self)).needs

    def init(self, problem: Problem) -> State:
        return LIBU(**asdict(self)).init(problem)

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        second = LIBU(**asdict(self)).phases(problem, state)[-1]
        assert isinstance(second, Descend)
        return (replace(second, optimiser=WithSophia(estimate=shuffled)),)
