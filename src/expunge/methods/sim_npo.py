"""SimNPO: negative preference optimisation without the original, on losses per token.

    loss = forget_weight * (2 / beta) mean_i log(1 + exp(margin - beta L_i)) + mean_r L_r

Fan et al., *Simplicity prevails: rethinking negative preference optimization for LLM unlearning* (2410.07163), equation
4 with the retain term of its section 4; L is a row's cross-entropy per token, log p(x) / |x| with its sign turned, so
that long rows are not given up before short ones, as under NPO, and nothing of the original is kept. The gradient of a
row is that of gradient ascent times 2 / (1 + exp(beta L_i - margin)): rows that the model knows count fully, those that
it gave up fade. Learning rate, batch, beta, the weights and a margin of 0 are those of the released code for TOFU's
forget10.

Departures: the margin stands beside beta L as in the paper's equation, where the released code has beta (L - margin);
10 epochs, the released configuration has 10 and 20; the retain term is a mean over windows of each one's mean per
token, where the released code takes the mean over all tokens of a batch; rows longer than the context count per window.

When to use it: as the baseline to beat where there are rows to keep; without any it has the forget term alone.
"""

from dataclasses import dataclass
from typing import Annotated

import torch.nn.functional as F

from expunge.config.bounds import AtLeast, Count, Positive
from expunge.data.batches import Batch
from expunge.method import Descend, Method, Phase, State, Terms
from expunge.model.losses import target_nll, window_means
from expunge.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class SimNPO(Method):
    """Options of sim_npo."""

    learning_rate: Positive = 1e-5
    """Peak learning rate of AdamW (the released configuration's value)."""
    epochs: Count = 10
    """Passes over the forget rows (a value of the released configuration)."""
    forget_rows: Count = 32
    """Forget rows a step, and as many retain rows (the released configuration's value)."""
    beta: Positive = 4.5
    """Inverse temperature: the smaller, the nearer to gradient ascent (the paper's value for TOFU's forget10)."""
    margin: Annotated[float, AtLeast(0)] = 0.0
    """The paper's gamma: a row fades once its loss is some margin / beta nats per token (the paper's value)."""
    forget_weight: Positive = 0.125
    """Weight of the forget term; that of the retain rows' cross-entropy is 1 (the paper's values for forget10)."""

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        draws = {"forget": self.forget_rows, "retain": self.forget_rows}
        return (Descend(loss=self.loss, draws=draws, passes=self.epochs, rate=self.learning_rate),)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        means = window_means(target_nll(problem.model, batch), batch)
        if batch.split == "retain":
            return Terms({"retain": means.mean()}, means.mean())
        away = 2 / self.beta * F.softplus(self.margin - self.beta * means).mean()
        return Terms({"forget": means.mean()}, self.forget_weight * away)
