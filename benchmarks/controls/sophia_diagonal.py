"""Sophia alone: libu's second phase without its first, which the controls of Sophia's curvature are compared with.

The first phase is left out so that the only curvature is Sophia's denominator. The rows are dealt as libu deals them.

When to use it: beside `sophia_shuffled`, `sophia_identity` and `sophia_soul`.
"""

from dataclasses import asdict, dataclass
from typing import Annotated

from expunge.config.bounds import AtLeast, Count, Positive
from expunge.method import Method, Needs, Phase, State
from expunge.methods.libu import LIBU
from expunge.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class SophiaDiagonal(Method):
    """Options of sophia_diagonal: those of libu's second phase."""

    learning_rate: Positive | None = None
    """Peak learning rate; none: the probe looks for it."""
    steps: Count | None = None
    """Most steps; none: as loss_matching."""
    forget_rows: Count = 24
    """Forget rows a step (as loss_matching)."""
    replay_texts: Annotated[int, AtLeast(0)] = 512
    """Texts to sample from the original; 0 for none (as loss_matching)."""
    replay_tokens: Count = 128
    """Longest replay text, in tokens (as loss_matching)."""

    @property
    def needs(self) -> Needs:
        return LIBU(**asdict(self)).needs

    def init(self, problem: Problem) -> State:
        return LIBU(**asdict(self)).init(problem)

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        return LIBU(**asdict(self)).phases(problem, state)[1:]
