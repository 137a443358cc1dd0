"""Gradient ascent: minus the cross-entropy of the forget rows, and nothing else.

    loss = -mean_i L_i

The simplest baseline (Jang et al., 2210.01504; the organisers' of SemEval-2025 Task 4). It has no end of its own: run
long enough, it destroys the model. Documents are ascended on as a whole, every token. Learning rate and epochs are the
organisers' (1e-5, 10 epochs, batches of 32); on small models they may do nothing, and are yours to set.

Departure: the loss is a mean over windows (one a row, unless it is longer than the context) of each one's mean per
token, where TOFU's code takes the mean over all tokens of a batch.

When to use it: never on a model that is to be used; it is the baseline that shows what collapse looks like.
"""

from dataclasses import dataclass

from expunge.config.bounds import Count, Positive
from expunge.data.batches import Batch
from expunge.method import Descend, Method, Phase, State, Terms
from expunge.model.losses import target_nll, window_means
from expunge.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientAscent(Method):
    """Options of gradient_ascent."""

    learning_rate: Positive = 1e-5
    """Peak learning rate of AdamW (the organisers' value)."""
    epochs: Count = 10
    """Passes over the forget rows (the organisers' value)."""
    forget_rows: Count = 32
    """Forget rows a step (the organisers' value)."""

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        draws = {"forget": self.forget_rows}
        return (Descend(loss=self.loss, draws=draws, passes=self.epochs, rate=self.learning_rate),)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        loss = window_means(target_nll(problem.model, batch), batch).mean()
        return Terms({"forget": loss}, -loss)
