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

import math
from dataclasses import dataclass
from typing import ClassVar

from expunge.data.batches import Batch
from expunge.method import LossPhase, Phase, State, Terms
from expunge.model.losses import target_kl, target_nll, window_means
from expunge.problem import Problem
from expunge.reference.cache import keep_distributions


@dataclass(frozen=True, slots=True, kw_only=True)
class KlMinimisation:
    """Options of kl_minimisation."""

    needs_retain: ClassVar[bool] = True
    keeps: ClassVar[tuple[str, ...]] = ("retain",)

    learning_rate: float = 1e-5
    """Peak learning rate of AdamW (the organisers' value)."""
    epochs: int = 10
    """Passes over the forget rows (the organisers' value)."""
    forget_rows: int = 32
    """Forget rows a step, and as many retain rows (the organisers' value)."""
    retain_weight: float = 1.0
    """Weight of the KL on retain rows (TOFU's value)."""

    def init(self, problem: Problem) -> State:
        return State(caches={"retain": keep_distributions(problem, problem.splits["retain"])})

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        steps = self.epochs * math.ceil(len(problem.splits["forget"].windows) / self.forget_rows)
        draws = {"forget": self.forget_rows, "retain": self.forget_rows}
        phase = LossPhase(loss=self.loss, draws=draws, steps=steps, learning_rate=self.learning_rate)
        return (phase,)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        if batch.split == "forget":
            loss = window_means(target_nll(problem.model, batch), batch).mean()
            return Terms({"forget": loss}, -loss)
        kept = state.caches["retain"].of(batch)
        kl = window_means(target_kl(problem.model, batch, kept), batch).mean()
        return Terms({"retain_kl": kl}, self.retain_weight * kl)
