"""Shuffled diagonal: the diagonal's own entries on other coordinates of the same tensor.

    C = diag(P h),    h the diagonal curvature and P a permutation of each parameter's coordinates

Scale and spread of the spectrum stay, and so does every damping that is relative to it; what is lost is which
coordinate has which curvature. It is no matrix of the model, so it forecasts nothing. The order hangs on the seed.

When to use it: as the control of `diagonal`, by path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from expunge.config.bounds import Count
from expunge.curvature import Curvature, CurvatureState, Damping, Passing, Solution, Vector
from expunge.curvatures.diagonal import Diagonal
from expunge.gradients.cotangents import Labels
from expunge.problem import Problem, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class ShuffledDiagonal(Curvature):
    """Options of shuffled_diagonal: those of diagonal."""

    labels: Labels = "noise"
    """Label source: noise, sampled, data (empirical) or exact (tiny models)."""
    passes: Count = 1
    """Passes over the rows with fresh draws of noise or labels."""

    @property
    def _diagonal(self) -> Diagonal:
        return Diagonal(labels=self.labels, passes=self.passes)

    @property
    def has_powers(self) -> bool:
        return True

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        state = self._diagonal.init(problem, split)
        seeds = {name: problem.seed + place for place, name in enumerate(sorted(state.tensors))}
        return replace(state, tensors={name: permuted(part, seeds[name]) for name, part in state.tensors.items()})

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        return self._diagonal.matvec(problem, state, vector)

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        return self._diagonal.solve(problem, state, vector, damping)

    def power(
        self, problem: Problem, state: CurvatureState, vector: Vector, exponent: float, damping: Damping
    ) -> dict[str, Tensor]:
        return self._diagonal.power(problem, state, vector, exponent, damping)

    def cost(self, rows: int) -> Passing:
        return self._diagonal.cost(rows)

    def bytes(self, shapes: Mapping[str, torch.Size]) -> int:
        return 2 * self._diagonal.bytes(shapes)  # both orders are there for a moment


def permuted(entries: Tensor, seed: int) -> Tensor:
    """The same entries in another order, which the seed alone decides."""
    order = torch.randperm(entries.numel(), generator=torch.Generator().manual_seed(seed))
    return entries.flatten()[order.to(entries.device)].view_as(entries)
