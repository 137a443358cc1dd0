"""Diagonal: the mean square of every coordinate's per-example gradient.

    C = diag((1 / tokens) sum_n P_n * P_n),    P_n the gradient of example n's summed loss

With `noise` labels (default) or `sampled` ones the expectation is the diagonal of the Gauss-Newton matrix of the mean
loss per token; with `data` labels it is that of the *empirical* Fisher, which on fitted text is far smaller. What LIBU
(2506.04044) calls WoodFisher in its code is a diagonal too, there of squared batch means under data labels.

Departures: exact per example, where released code squares batches.

When to use it: by default. It costs one backward pass over the curvature rows and one number for each parameter.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.config.bounds import Count
from expunge.curvature import Curvature, CurvatureState, Damping, Passing, Solution, Vector, spectrum
from expunge.gradients.cotangents import Labels
from expunge.gradients.per_example import Squares, measure
from expunge.problem import Problem, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagonal(Curvature):
    """Options of the diagonal curvature."""

    labels: Labels = "noise"
    """Label source: noise, sampled, data (empirical) or exact (tiny models); our choice."""
    passes: Count = 1
    """Passes over the rows with fresh draws of noise or labels (our choice)."""

    @property
    def forecasts(self) -> bool:
        return self.labels != "data"

    @property
    def has_powers(self) -> bool:
        return True

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        passes = 1 if self.labels == "data" else self.passes
        sums = measure(problem, split, Squares, self.labels, passes=passes, title="curvature")
        # Tokens and not examples: d' C d / 2 is then in nats per token, as the retain KL is.
        diagonal = {name: squares / (sums.tokens * passes) for name, squares in sums.tensors.items()}
        found = spectrum(diagonal)
        return CurvatureState(diagonal, found.mean, found.median, found.means, sums.examples, sums.tokens)

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        return {name: state.tensors[name] * tensor for name, tensor in vector.items() if name in state.means}

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        return Solution(self.power(problem, state, vector, -1.0, damping))

    def power(
        self, problem: Problem, state: CurvatureState, vector: Vector, exponent: float, damping: Damping
    ) -> dict[str, Tensor]:
        return {
            name: tensor * (state.tensors[name] + damping.of(name)) ** exponent
            for name, tensor in vector.items()
            if name in state.alive
        }

    def cost(self, rows: int) -> Passing:
        return Passing(fit=1 if self.labels == "data" else self.passes)

    def bytes(self, shapes: Mapping[str, torch.Size]) -> int:
        """Sums of squares and what they become live together for a moment."""
        return 8 * sum(shape.numel() for shape in shapes.values())
