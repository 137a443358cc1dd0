"""Sophia without a curvature: libu's second phase, each estimate one for all coordinates.

Estimates are made all the same and thrown away, so that the work and what is drawn stay as in `sophia_diagonal`: what
is left of Sophia is momentum, clipped where it is large.

When to use it: as the control of Sophia's curvature.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Annotated

import torch

from expunge.config.bounds import AtLeast, Count, Positive
from expunge.data.batches import Batch
from expunge.gradients.estimates import Estimate, estimate
from expunge.influence.refresh import WithSophia
from expunge.method import Descend, Method, Needs, Phase, State
from expunge.methods.libu import LIBU
from expunge.problem import Problem


def ones(problem: Problem, batches: Sequence[Batch], generator: torch.Generator) -> Estimate:
    """One in every place of the estimate."""
    result = estimate(problem, batches, generator)
    return replace(result, diagonal=[torch.ones_like(part) for part in result.diagonal])


@dataclass(frozen=True, slots=True, kw_only=True)
class SophiaIdentity(Method):
    """Options of sophia_identity: those of libu's second phase."""

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
        return (replace(second, optimiser=WithSophia(estimate=ones)),)
