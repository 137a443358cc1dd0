"""Fisher Forgetting: Gaussian noise where the retain rows have little curvature.

    theta <- theta + (mu sigma^2)^(1/4) (F(retain) + damping)^(-1/4) n,    n ~ N(0, I)

Gu, Rashid, Sultana, Mehnaz, *Second-Order Information Matters* (2403.10557), after Golatkar et al. (2020). The noise
has covariance sqrt(mu sigma^2) F^(-1/2). Two readings of the paper, which we know from third-party notes: `noise`, only
the noise (its parent's form, where the Newton term vanishes near an optimum; ours by default), and `noisy_newton`, a
Newton removal step before it, which takes half of each cycle's budget. There is no public code; mu, sigma, damping and
the number of cycles are not known to us, and all numbers here are our choice.

Departures: as in fisher_removal (noise cotangent, relative damping, amplitude by a retain budget measured on acceptance
rows). Parameters that have no gradient at all, such as A of a fresh LoRA, get no noise: that their Fisher is zero says
nothing, and (0 + damping)^(-1/4) would be the largest noise of all.

When to use it: to compare with, and where weights are to be blurred without any direction; the noise knows nothing of
the forget rows.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from expunge.config.bounds import Count, Positive
from expunge.influence import directions
from expunge.influence.directions import Step
from expunge.method import Method, Needs, Phase, Proposal, Propose, Repeat, State
from expunge.problem import Problem
from expunge.reference import objective


@dataclass(frozen=True, slots=True, kw_only=True)
class FisherForgetting(Method):
    """Options of fisher_forgetting."""

    reading: Literal["noise", "noisy_newton"] = "noise"
    """Of the paper: noise only, or a Newton step and then noise (our choice between the two)."""
    curvature: str = "diagonal"
    """Entry of the curvatures catalogue (expunge list curvatures); our choice."""
    curvature_options: Any = field(default_factory=dict)
    """The curvature's own options, such as {labels: data}."""
    damping: Positive = 0.1
    """Added to the spectrum, relative to its mean (our choice)."""
    absolute_damping: Positive | None = None
    """Damping in the spectrum's own units, in place of the relative one; none: relative."""
    cycles: Count = 5
    """Draws of noise, each shaped by the curvature at the new weights (our choice)."""
    step: Step = "budget"
    """How the amplitude is found: budget, line_search or targets (both need targets), or fixed (step_size); our
    choice."""
    budget: Positive = 0.1
    """Most retain KL (nats per token) over all cycles (our choice)."""
    step_size: Positive | None = None
    """The amplitude (mu sigma^2)^(1/4), and eta of the Newton step, for step: fixed."""

    def __post_init__(self) -> None:
        directions.check(self, powers=True)

    @property
    def needs(self) -> Needs:
        parts = {"curvature": 3, "acceptance": 1}
        return Needs(retain=True, parts=parts, fewest_retain=16)

    def init(self, problem: Problem) -> State:
        return objective.with_targets(problem, self.step in directions.TO_TARGETS)

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        steps: list[Propose] = []
        for cycle in range(self.cycles):
            if self.reading == "noisy_newton":
                steps.append(self._phase(problem, "removal", self._remove, (cycle + 0.5) / self.cycles))
            steps.append(self._phase(problem, "noise", self._perturb, (cycle + 1) / self.cycles))
        return (Repeat(tuple(steps), 1),)

    def _phase(
        self, problem: Problem, name: str, propose: Callable[[Problem, State], Proposal], share: float
    ) -> Propose:
        # a fit and two solves; and the retain rows' gradient, on the same rows
        passes = {"forget": 1, "curvature": 1 + directions.passes_of(self, problem, fits=1, solves=2)}
        return Propose(
            name=name,
            propose=propose,
            step=directions.rule(self, share),
            passes=passes,
            bytes=directions.bytes_of(self),
        )

    def _remove(self, problem: Problem, state: State) -> Proposal:
        return directions.ascent(problem, state, directions.fit(problem, self), stop_at_targets=True)

    def _perturb(self, problem: Problem, state: State) -> Proposal:
        state.carried["draw"] = state.carried.get("draw", 0) + 1
        return directions.shaped_noise(problem, directions.fit(problem, self), state.carried["draw"])
