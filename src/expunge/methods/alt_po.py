"""AltPO: other plausible answers are preferred to the forget rows' own.

    loss = (2 / beta) mean_i log(1 + (r_i / r'_i)^beta) + retain_weight * mean_r L_r,
    r = p(x) / p_original(x),  r' the same of the row with another answer

Mekala et al., *Alternate preference optimization for unlearning factual knowledge in large language models*
(2409.13474): DPO with an answer that the model itself made up on the winning side, so that something takes the place of
what goes, and not a refusal or nonsense. The other answers come with the rows, in a column `alternate` (a text or a
list of them, or one line for each, as their generate.py writes them); without it the method is refused. The original's
likelihoods are computed once; there is no second model. Learning rate, batch and beta are those of the released
configuration.

Departures: the retain term is a mean over windows of each one's mean per token, where theirs takes the mean over all
tokens of a batch; of several answers to a row each has its turn, and an epoch is a pass over the forget rows, not over
the pairs; rows longer than the context make a pair a window, and of a longer answer only what fits is preferred.

When to use it: where a wrong but fluent answer may stand in place of the forgotten one. It teaches what is not true.
"""

from dataclasses import dataclass

from expunge.config.bounds import Count, Positive, Weight
from expunge.data.batches import Batch
from expunge.data.passes import Passes
from expunge.data.rows import ALTERNATE, Row
from expunge.method import Method, Needs, Phase, State, Terms
from expunge.problem import Problem
from expunge.reference import preference


@dataclass(frozen=True, slots=True, kw_only=True)
class AltPO(Method):
    """Options of alt_po."""

    learning_rate: Positive = 5e-5
    """Peak learning rate of AdamW (the released configuration's value)."""
    epochs: Count = 10
    """Passes over the forget rows (the released configuration's value)."""
    forget_rows: Count = 35
    """Pairs a step, and as many retain rows (the released configuration's value)."""
    beta: Positive = 0.1
    """Inverse temperature: the smaller, the longer a pair counts (the released configuration's value)."""
    retain_weight: Weight = 1.0
    """Weight of the retain rows' cross-entropy (the released configuration's value)."""

    @property
    def needs(self) -> Needs:
        return Needs(of_rows=lacking, made=lambda problem: preference.pairs(problem, lambda row: row.alternates))

    def cost(self, problem: Problem) -> Passes:
        return preference.cost(problem)

    def init(self, problem: Problem) -> State:
        return preference.likelihoods(problem)

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        return (preference.descent(problem, self.loss, self.forget_rows, self.epochs, self.learning_rate),)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        return preference.loss(problem, state, batch, self.beta, self.retain_weight)


def lacking(row: Row) -> str:
    """What a row lacks."""
    return "" if row.alternates else f"another answer (column {ALTERNATE!r})"
