"""IdkDPO: a refusal is preferred to the forget rows' own answers.

    loss = (2 / beta) mean_i log(1 + (r_i / r'_i)^beta) + retain_weight * mean_r L_r,
    r = p(x) / p_original(x),  r' the same of the question with a refusal

The DPO baseline of TOFU's successors: Zhang et al. (2404.05868) take DPO (Rafailov et al., 2305.18290) with TOFU's "I
don't know" answers (Maini et al., 2401.06121) on the winning side and cross-entropy on the retain rows. Which refusal
goes with a row follows from the row alone. A document asks nothing that could be refused, so the method is refused
where there are any. The original's likelihoods are computed once; there is no second model. Learning rate, epochs and
batch are TOFU's for its baselines, beta and the weight those of the papers.

Departures: ten refusals of our own words in place of TOFU's hundred, unless `refusals` gives others; each row keeps its
refusal, where TOFU draws anew every time; the retain term is a mean over windows of each one's mean per token, where
TOFU's code takes the mean over all tokens of a batch; rows longer than the context make a pair a window.

When to use it: where questions about what was removed are to be declined. That the model declines shows what was asked
to be forgotten, and a model that never saw the rows would not.
"""

from dataclasses import dataclass

from expunge.config.bounds import Count, Positive, Weight
from expunge.data.batches import Batch
from expunge.data.passes import Passes
from expunge.data.rows import Row
from expunge.method import Method, Needs, Phase, State, Terms
from expunge.problem import Problem
from expunge.reference import preference

REFUSALS = (
    "I don't know.",
    "I do not know the answer to that.",
    "I'm not sure.",
    "I have no information about that.",
    "That is something I don't know about.",
    "I'm afraid I can't answer that.",
    "I cannot say.",
    "I have not learned anything about that.",
    "I'm sorry, I don't have an answer to this question.",
    "That is not known to me.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class IdkDPO(Method):
    """Options of idk_dpo."""

    learning_rate: Positive = 1e-5
    """Peak learning rate of AdamW (TOFU's value)."""
    epochs: Count = 10
    """Passes over the forget rows (the value of the NPO paper)."""
    forget_rows: Count = 32
    """Pairs a step, and as many retain rows (TOFU's value)."""
    beta: Positive = 0.1
    """Inverse temperature: the smaller, the longer a pair counts (the NPO paper's value)."""
    retain_weight: Weight = 1.0
    """Weight of the retain rows' cross-entropy (the papers' value)."""
    refusals: tuple[str, ...] = ()
    """Answers to prefer, in the language of the rows; none: ten in English (our choice)."""

    @property
    def needs(self) -> Needs:
        return Needs(of_rows=lacking, made=lambda problem: preference.pairs(problem, self.refusal))

    def cost(self, problem: Problem) -> Passes:
        return preference.cost(problem)

    def init(self, problem: Problem) -> State:
        return preference.likelihoods(problem)

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        return (preference.descent(problem, self.loss, self.forget_rows, self.epochs, self.learning_rate),)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        return preference.loss(problem, state, batch, self.beta, self.retain_weight)

    def refusal(self, row: Row) -> tuple[str]:
        """The refusal of a row, by its hash."""
        known = self.refusals or REFUSALS
        return (known[int.from_bytes(row.digest("refusal")[:8]) % len(known)],)


def lacking(row: Row) -> str:
    """What a row lacks."""
    return "a question" if row.kind == "document" else ""
