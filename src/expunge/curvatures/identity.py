"""Identity: no curvature at all. What every other one must beat.

    C = I,    so `solve` only scales: (C + damping I)^p v = (1 + damping)^p v

With it Newton removal is gradient ascent, and shaped noise is plain noise. No paper's: our control. It is no matrix of
the model, so it forecasts nothing.

When to use it: as the control in every ablation.
"""

from dataclasses import dataclass

from torch import Tensor

from expunge.curvature import CurvatureState, Vector
from expunge.problem import Problem, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """Has no options."""

    @property
    def forecasts(self) -> bool:
        return False

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        tokens = sum(window.targets for window in split.windows)
        return CurvatureState({}, 1.0, 1.0, frozenset(problem.movable), len(split.rows), tokens)

    def matvec(self, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        return dict(vector)

    def solve(self, state: CurvatureState, vector: Vector, damping: float) -> dict[str, Tensor]:
        return self.power(state, vector, -1.0, damping)

    def power(self, state: CurvatureState, vector: Vector, exponent: float, damping: float) -> dict[str, Tensor]:
        return {name: tensor * (1 + damping) ** exponent for name, tensor in vector.items()}
