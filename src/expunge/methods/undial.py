"""UNDIAL: the forget rows are distilled from the original, with the logit of each true token lowered.

    loss = mean_i mean_t KL(softmax(z_t - strength e_y), p_t) + retain_weight * mean_r L_r

Dong et al., *UNDIAL: self-distillation with adjusted logits for robust unlearning in large language models*
(2402.10052): z_t are the original's logits before the token y, e_y is 1 at y and 0 elsewhere. The target stays what it
is, so the loss is bounded and longer training does no harm; all other tokens keep their odds. Where the original gives
y the probability p, the target gives it p / (p + (1 - p) exp(strength)): a row memorised with p above
1 - exp(-strength) keeps y as its likeliest token. The paper minimises the cross-entropy against the target, which is
this KL and a constant. Learning rate is the paper's (for a LoRA of rank 8), strength one of the three that it searches;
it has no retain term, so its weight is 0 unless you set it.

Departures: the mean is over targets alone, per window and then over windows, where other code averages over prompts and
padding too and lowers a token there that nobody meant; vocabularies above 1,024 tokens are kept as the 256 likeliest
tokens of the target and one class for the rest, a lower bound.

When to use it: as the baseline that cannot run away; it leaves a trace that a membership attack sees.
"""

from dataclasses import dataclass
from functools import partial

from torch import Tensor

from expunge.config.bounds import Count, Positive, Weight
from expunge.data.batches import Batch
from expunge.method import Descend, Method, Needs, Phase, State, Terms
from expunge.model.losses import target_kl, target_nll, window_means
from expunge.problem import Problem
from expunge.reference.cache import keep_distributions


@dataclass(frozen=True, slots=True, kw_only=True)
class UNDIAL(Method):
    """Options of undial."""

    learning_rate: Positive = 1e-4
    """Peak learning rate of AdamW (the paper's value)."""
    epochs: Count = 10
    """Passes over the forget rows (a value that the authors search)."""
    forget_rows: Count = 16
    """Forget rows a step (the authors' value), and as many retain rows where those count."""
    strength: Positive = 10.0
    """By how much the true token's logit is lowered (a value that the authors search: 3, 10, 30)."""
    retain_weight: Weight = 0.0
    """Weight of the retain rows' cross-entropy (the paper's value: it has no such term)."""

    @property
    def needs(self) -> Needs:
        return Needs(kept={"forget": "distributions"})

    def init(self, problem: Problem) -> State:
        adjust = partial(lowered, strength=self.strength)
        return State(caches={"forget": keep_distributions(problem, problem.splits["forget"], adjust)})

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        draws = {"forget": self.forget_rows} | ({"retain": self.forget_rows} if self.retain_weight else {})
        return (Descend(loss=self.loss, draws=draws, passes=self.epochs, rate=self.learning_rate),)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        if batch.split == "retain":
            loss = window_means(target_nll(problem.model, batch), batch).mean()
            return Terms({"retain": loss}, self.retain_weight * loss)
        kept = state.caches["forget"].of(batch)
        kl = window_means(target_kl(problem.model, batch, kept), batch).mean()
        return Terms({"forget_kl": kl}, kl)


def lowered(logits: Tensor, labels: Tensor, strength: float) -> Tensor:
    """Logits [n, V] with those of the labels [n] lowered; before the softmax, since p_y may round to 1 after it."""
    return logits.scatter_add(1, labels[:, None], logits.new_full((len(labels), 1), -strength))
