"""Negative preference optimisation: away from the original on forget rows, less and less as a row is forgotten.

    loss = (2 / beta) mean_i log(1 + (p(x_i) / p_original(x_i))^beta) + retain_weight * mean_r L_r

Zhang et al. (2404.05868), equation 3; p is the likelihood of a whole row (the product over its targets, not the mean
over its tokens, which other code takes). At the original the gradient is that of gradient ascent on the summed
log-likelihood; it fades as the ratio falls, so the method slows down where gradient ascent runs on. A baseline of
SemEval-2025 Task 4, there without a retain term, which is therefore 0 unless you set it. The original's likelihoods
are computed once; there is no second model. Learning rate, epochs and batch are the organisers', beta is the paper's.

Departure: rows longer than the context count per window.

When to use it: as the baseline that slows down on its own; `retain_weight: 1` is the paper's variant that also keeps.
"""

from dataclasses import dataclass

import torch.nn.functional as F

from expunge.config.bounds import Count, Positive, Weight
from expunge.data.batches import Batch
from expunge.data.passes import Passes, measuring
from expunge.method import Descend, Method, Phase, State, Terms
from expunge.model.losses import per_window, target_nll, window_means
from expunge.problem import Problem
from expunge.reference.cache import log_likelihoods


@dataclass(frozen=True, slots=True, kw_only=True)
class NPO(Method):
    """Options of npo."""

    learning_rate: Positive = 1e-5
    """Peak learning rate of AdamW (the organisers' value)."""
    epochs: Count = 10
    """Passes over the forget rows (the organisers' value)."""
    forget_rows: Count = 32
    """Forget rows a step (the organisers' value), and as many retain rows where those count."""
    beta: Positive = 0.1
    """Inverse temperature: the smaller, the nearer to gradient ascent (the paper's value)."""
    retain_weight: Weight = 0.0
    """Weight of the retain rows' cross-entropy (the organisers' value; the paper's variant that has it: 1)."""

    def cost(self, problem: Problem) -> Passes:
        return Passes(plain=measuring(problem.splits["forget"].windows))  # the original's likelihoods

    def init(self, problem: Problem) -> State:
        return State(caches={"forget": log_likelihoods(problem, problem.splits["forget"])})

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        draws = {"forget": self.forget_rows} | ({"retain": self.forget_rows} if self.retain_weight else {})
        return (Descend(loss=self.loss, draws=draws, passes=self.epochs, rate=self.learning_rate),)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        nll = target_nll(problem.model, batch)
        loss = window_means(nll, batch).mean()
        if batch.split == "retain":
            return Terms({"retain": loss}, self.retain_weight * loss)
        original = state.caches["forget"][batch.windows.cpu()].to(nll.device)
        ratio = -per_window(nll, batch) - original
        return Terms({"forget": loss}, 2 / self.beta * F.softplus(self.beta * ratio).mean())
