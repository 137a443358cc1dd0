"""LIBU's first phase alone: an influence step through the damped inverse curvature, and no descent after it.

When to use it: to see what the second phase of libu mends, and what it spoils.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from expunge.config.bounds import Count, Positive
from expunge.influence import directions
from expunge.influence.directions import Step
from expunge.method import Method, Needs, Phase, State
from expunge.methods.libu import LIBU
from expunge.problem import Problem


@dataclass(frozen=True, slots=True, kw_only=True)
class LIBUFirst(Method):
    """Options of libu_first: those of libu's first phase."""

    curvature: str = "diagonal"
    """Entry of the curvatures catalogue."""
    curvature_options: Any = field(default_factory=dict)
    """The curvature's own options, such as {labels: data}."""
    cycles: Count = 1
    """Steps, each with gradient and curvature at the new weights."""
    damping: Positive = 0.1
    """Added to the spectrum, relative to its mean over coordinates with a gradient."""
    absolute_damping: Positive | None = None
    """Damping in the spectrum's own units, in place of the relative one; none: relative."""
    step: Step = "budget"
    """How it finds its step: budget, line_search, targets, or fixed (step_size)."""
    budget: Positive = 0.05
    """Most retain KL (nats per token) in all of it."""
    step_size: Positive | None = None
    """eta, for step: fixed."""

    def __post_init__(self) -> None:
        directions.check(self)

    @property
    def _libu(self) -> LIBU:
        return LIBU(**asdict(self), replay_texts=0)  # replay is for the second phase

    @property
    def needs(self) -> Needs:
        return self._libu.needs

    def init(self, problem: Problem) -> State:
        return self._libu.init(problem)

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        return self._libu.phases(problem, state)[:1]
