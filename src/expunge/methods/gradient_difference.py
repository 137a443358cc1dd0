"""Gradient difference: up the forget rows' cross-entropy, down that of the retain rows.

    loss = -mean_i L_i + retain_weight * mean_r L_r

Liu et al. (2203.12817) in the form of TOFU (Maini et al., 2401.06121), which weighs the two terms 1 : 1; a baseline of
SemEval-2025 Task 4. The forget term is unbounded, so the method over-forgets if run long. Without retain rows it is
gradient ascent. Learning rate, epochs and batch are the organisers'.

Departure: both terms are means over windows (one a row, unless it is longer than the context) of each one's mean per
token, where TOFU's code takes the mean over all tokens of a batch.

When to use it: as a baseline, where learning rate and steps can be tuned against a retrained model.
"""

from dataclasses import dataclass

from expunge.config.bounds import Count, Positive, Weight
from expunge.data.batches import Batch
from expunge.method import Descend, Method, Phase, State, Terms
from expunge.model.losses import target_nll, window_means
from expunge.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientDifference(Method):
    """Options of gradient_difference."""

    learning_rate: Positive = 1e-5
    """Peak learning rate of AdamW (the organisers' value)."""
    epochs: Count = 10
    """Passes over the forget rows (the organisers' value)."""
    forget_rows: Count = 32
    """Forget rows a step, and as many retain rows (the organisers' value)."""
    retain_weight: Weight = 1.0
    """Weight of the retain rows' cross-entropy (TOFU's value)."""

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        draws = {"forget": self.forget_rows, "retain": self.forget_rows}
        return (Descend(loss=self.loss, draws=draws, passes=self.epochs, rate=self.learning_rate),)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        loss = window_means(target_nll(problem.model, batch), batch).mean()
        return Terms({batch.split: loss}, -loss if batch.split == "forget" else self.retain_weight * loss)
