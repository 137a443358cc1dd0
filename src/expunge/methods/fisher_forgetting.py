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

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from expunge.influence import directions
from expunge.influence.directions import Step
from expunge.method import Phase, Proposal, ProposalPhase, Repeat, State
from expunge.problem import Problem
from expunge.reference import objective


@dataclass(frozen=True, slots=True, kw_only=True)
class FisherForgetting:
    """Options of fisher_forgetting."""

    needs_retain: ClassVar[bool] = True
    retain_parts: ClassVar[dict[str, int]] = {"curvature": 3, "acceptance": 1}
    fewest_retain: ClassVar[int] = 16

    reading: Literal["noise", "noisy_newton"] = "noise"
    """Of the paper: noise only, or a Newton step and then noise (our choice between the two)."""
    curvature: str = "diagonal"
    """Entry of the curvatures catalogue (expunge list curvatures); our choice."""
    curvature_options: Any = field(default_factory=dict)
    """The curvature's own options, such as {labels: data}."""
    damping: float = 0.1
    """Added to the spectrum, relative to its mean (our choice)."""
    absolute_damping: float | None = None
    """Damping in the spectrum's own units, in place of the relative one; none: relative."""
    cycles: int = 5
    """Draws of noise, each shaped by the curvature at the new weights (our choice)."""
    step: Step = "budget"
    """How the amplitude is found: budget, line_search or targets (both need targets), or fixed (step_size); our
    choice."""
    budget: float = 0.1
    """Most retain KL (nats per token) over all cycles (our choice)."""
    step_size: float | None = None
    """The amplitude (mu sigma^2)^(1/4), and eta of the Newton step, for step: fixed."""

    def __post_init__(self) -> None:
        directions.check(self)

    def init(self, problem: Problem) -> State:
        return objective.with_targets(problem, self.step in directions.TO_TARGETS)

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        steps: list[ProposalPhase] = []
        for cycle in range(self.cycles):
            if self.reading == "noisy_newton":
                steps.append(self._phase("removal", self._remove, (cycle + 0.5) / self.cycles))
            steps.append(self._phase("noise", self._perturb, (cycle + 1) / self.cycles))
        return (Repeat(tuple(steps), 1),)

    def _phase(self, name: str, propose: Any, share: float) -> ProposalPhase:
        passes = {"forget": 1, "curvature": 2}
        return ProposalPhase(name=name, propose=propose, step=directions.rule(self, share), passes=passes)

    def _remove(self, problem: Problem, state: State) -> Proposal:
        return directions.ascent(problem, state, directions.fit(problem, self), stop_at_targets=True)

    def _perturb(self, problem: Problem, state: State) -> Proposal:
        state.carried["draw"] = state.carried.get("draw", 0) + 1
        return directions.shaped_noise(problem, directions.fit(problem, self), state.carried["draw"])
