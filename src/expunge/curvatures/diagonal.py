"""Diagonal: the mean square of every coordinate's per-example gradient.

    C = diag((1 / tokens) sum_n P_n * P_n),    P_n the gradient of example n's summed loss

With `noise` labels (default) or `sampled` ones the expectation is the diagonal of the Gauss-Newton matrix of the mean
loss per token; with `data` labels it is that of the *empirical* Fisher, which on fitted text is far smaller. What LIBU
(2506.04044) calls WoodFisher in its code is a diagonal too, there of squared batch means under data labels.

Departures: exact per example, where released code squares batches. Two shortcuts exist under their names only:

- `by_token`: sum over tokens of squared single-token gradients. Leaves out the products between positions, so it is
  wrong for `data` labels, approximate for layers under attention, and cheap.
- `by_batch`: the square of a batch's summed gradient. Unbiased for labels whose cotangents have mean zero (`noise`,
  `sampled`), at about B times the variance; under `data` labels it measures the mean gradient, not curvature.

`shuffled` permutes the entries within each parameter: a control that keeps the scale and throws the structure away.

When to use it: by default. It costs one backward pass over the curvature rows and one number for each parameter.
"""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from expunge.curvature import CurvatureState, Vector, shuffled, summary
from expunge.gradients.cotangents import Labels
from expunge.gradients.per_example import BATCH_WINDOWS, Wanted, measure
from expunge.problem import Problem, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagonal:
    """Options of the diagonal curvature."""

    labels: Labels = "noise"
    """Label source: noise, sampled, data (empirical) or exact (tiny models); our choice."""
    passes: int = 1
    """Passes over the rows with fresh draws of noise or labels (our choice)."""
    approximation: Literal["exact", "by_token", "by_batch"] = "exact"
    """exact per example, or a named shortcut (our choice)."""
    shuffled: bool = False
    """Permute the entries of each parameter: a control (our choice)."""

    @property
    def forecasts(self) -> bool:
        return self.labels != "data" and not self.shuffled

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        wanted = Wanted(
            squares=True, by_token=self.approximation == "by_token", by_batch=self.approximation == "by_batch"
        )
        passes = 1 if self.labels == "data" else self.passes
        sums = measure(problem, split, wanted, self.labels, passes=passes, windows=BATCH_WINDOWS, title="curvature")
        diagonal = {name: squares / (sums.tokens * passes) for name, squares in sums.squares.items()}
        if self.shuffled:
            seeds = {name: problem.seed + place for place, name in enumerate(sorted(diagonal))}
            diagonal = {name: shuffled(entries, seeds[name]) for name, entries in diagonal.items()}
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
