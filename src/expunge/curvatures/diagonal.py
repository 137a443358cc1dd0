"""Diagonal: the mean square of every coordinate's per-example gradient.

    C = diag((1 / tokens) sum_n P_n * P_n),    P_n the gradient of example n's summed loss

With `noise` labels (default) or `sampled` ones the expectation is the diagonal of the Gauss-Newton matrix of the mean
loss per token; with `data` labels it is that of the *empirical* Fisher, which on fitted text is far smaller. What LIBU
(2506.04044) calls WoodFisher in its code is a diagonal too, there of squared batch means under data labels.

Departures: exact per example, where released code squares batches.

When to use it: by default. It costs one backward pass over the curvature rows and one number for each parameter.
"""

from dataclasses import dataclass

from torch import Tensor

from expunge.curvature import CurvatureState, Vector, summary
from expunge.gradients.cotangents import Labels
from expunge.gradients.per_example import Squares, measure
from expunge.problem import Problem, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagonal:
    """Options of the diagonal curvature."""

    labels: Labels = "noise"
    """Label source: noise, sampled, data (empirical) or exact (tiny models); our choice."""
    passes: int = 1
    """Passes over the rows with fresh draws of noise or labels (our choice)."""

    @property
    def forecasts(self) -> bool:
        return self.labels != "data"

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        passes = 1 if self.labels == "data" else self.passes
        sums = measure(problem, split, Squares, self.labels, passes=passes, title="curvature")
        diagonal = {name: squares / (sums.tokens * passes) for name, squares in sums.tensors.items()}
        mean, median, alive = summary(diagonal)
        return CurvatureState(diagonal, mean, median, alive, sums.examples, sums.tokens)

    def matvec(self, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        return {name: state.tensors[name] * tensor for name, tensor in vector.items()}

    def solve(self, state: CurvatureState, vector: Vector, damping: float) -> dict[str, Tensor]:
        return self.power(state, vector, -1.0, damping)

    def power(self, state: CurvatureState, vector: Vector, exponent: float, damping: float) -> dict[str, Tensor]:
        return {
            name: tensor * (state.tensors[name] + damping) ** exponent
            for name, tensor in vector.items()
            if name in state.alive
        }
