"""Identity: no curvature at all. What every other one must beat.

    C = I,    so `solve` only scales: (C + damping I)^p v = (1 + damping)^p v

With it Newton removal is gradient ascent, and shaped noise is plain noise. No paper's: our control. It is no matrix of
the model, so it forecasts nothing.

When to use it: as the control in every ablation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.curvature import Curvature, CurvatureState, Damping, Passing, Solution, Vector, Whitening
from expunge.model.layers import linear_weights
from expunge.problem import Problem, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity(Curvature):
    """Has no options."""

    @property
    def has_powers(self) -> bool:
        return True

    @property
    def has_factors(self) -> bool:
        return True

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        tokens = sum(window.targets for window in split.windows)
        return CurvatureState({}, 1.0, 1.0, dict.fromkeys(problem.movable, 1.0), len(split.rows), tokens)

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        return dict(vector)

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        return Solution(self.power(problem, state, vector, -1.0, damping))

    def power(
        self, problem: Problem, state: CurvatureState, vector: Vector, exponent: float, damping: Damping
    ) -> dict[str, Tensor]:
        return {name: tensor * (1 + damping.of(name)) ** exponent for name, tensor in vector.items()}

    def whitening(
        self, problem: Problem, state: CurvatureState, damping: Damping, release: bool = False
    ) -> Mapping[str, Whitening]:
        """Of layers whose damping is one number: nothing to whiten, but for a factor that all share."""
        return {name: Whitening(None, None, name) for name in linear_weights(problem.model, problem.movable)}

    def cost(self, rows: int) -> Passing:
        return Passing(fit=0.0)

    def bytes(self, shapes: Mapping[str, torch.Size]) -> int:
        return 0
