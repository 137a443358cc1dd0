"""KL minimisation: up the forget rows' cross-entropy, while the retain rows keep the original's distributions.

    loss = -mean_i L_i + retain_weight * mean_r KL_r,    KL = KL(original, current) per target token, teacher-forced

The "KL" baseline of TOFU (Maini et al., 2401.06121) and of SemEval-2025 Task 4. The forget term is unbounded, so the
method over-forgets if run long. The original's distributions are computed once; there is no second model. Learning
rate, epochs and batch are the organisers'.

Departures: both terms are means over windows of each one's mean over its targets, where TOFU's code averages the KL
over all positions, those of questions and padding among them; vocabularies above 1,024 tokens are kept as the 256
likeliest tokens and one class for the rest, a lower bound.

When to use it: as a baseline, or where the retain rows' whole distributions matter and not only their labels.
"""

from dataclasses import dataclass

from expunge.config.bounds import Count, Positive, Weight
from expunge.data.batches import Batch
from expunge.method import Descend, Method, Needs, Phase, State, Terms
from expunge.model.losses import target_kl, target_nll, window_means
from expunge.problem import Problem
from expunge.reference.cache import keep_distributions


@dataclass(frozen=True, slots=True, kw_only=True)
class KLMinimisation(Method):
    """Options of kl_minimisation."""

    learning_rate: Positive = 1e-5
    """Peak learning rate of AdamW (the organisers' value)."""
    epochs: Count = 10
    """Passes over the forget rows (the organisers' value)."""
    forget_rows: Count = 32
    """Forget rows a step, and as many retain rows (the organisers' value)."""
    retain_weight: Weight = 1.0
    """Weight of the KL on retain rows (TOFU's value)."""

    @property
    def needs(self) -> Needs:
        return Needs(retain=True, kept={"retain": "distributions"})

    def init(self, problem: Problem) -> State:
        return State(caches={"retain": keep_distributions(problem, problem.splits["retain"])})

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        draws = {"forget": self.forget_rows, "retain": self.forget_rows}
        return (Descend(loss=self.loss, draws=draws, passes=self.epochs, rate=self.learning_rate),)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        if batch.split == "forget":
            loss = window_means(target_nll(problem.model, batch), batch).mean()
            return Terms({"forget": loss}, -loss)
        kept = state.caches["retain"].of(batch)
        kl = window_means(target_kl(problem.model, batch, kept), batch).mean()
        return Terms({"retain_kl": kl}, self.retain_weight * kl)
