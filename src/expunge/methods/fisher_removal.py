"""Fisher Removal: a Newton step up the forget loss, through the inverse Fisher of the retain rows.

    theta <- theta + eta (F(retain) + damping)^-1 grad L(forget)

Gu, Rashid, Sultana, Mehnaz, *Second-Order Information Matters* (2403.10557): Newton removal with the inverse of the
empirical Fisher by the WoodFisher recursion (as third-party notes report it; we have not seen the full text). There is
no public code, and the paper's values of eta, block size, number of gradients, damping and cycles are not known to us:
all numbers here are our choice.

Departures: curvature from the noise cotangent (Gauss-Newton) unless `labels: data` asks for the paper's empirical
Fisher, which is far smaller on fitted text; damping relative to the mean of the spectrum; eta by a retain budget,
measured on acceptance rows that neither gradient nor curvature saw; where targets are known, rows that have reached
theirs are left out of later cycles. `restore` (ours, in neither paper) puts a Newton step down the retain KL between
two steps: a direction is chosen where the retain KL has no gradient, and after the first step it has one. Moves LoRA or
the chosen subspace, which must be small for `curvature: block`; on a fresh LoRA only B has a gradient in the first
cycle, so only B moves.

When to use it: for few steps with a stated price (the budget) instead of a training; there need be no targets.
"""

from dataclasses import dataclass, field
from typing import Any

from expunge.config.bounds import Count, Positive
from expunge.data.passes import Passes, measuring
from expunge.influence import directions
from expunge.influence.directions import Step
from expunge.method import Method, Needs, Phase, Proposal, Propose, Repeat, State
from expunge.optim.step_size import Restore
from expunge.problem import Problem
from expunge.reference import objective
from expunge.reference.cache import keep_distributions


@dataclass(frozen=True, slots=True, kw_only=True)
class FisherRemoval(Method):
    """Options of fisher_removal."""

    curvature: str = "diagonal"
    """Entry of the curvatures catalogue (expunge list curvatures); our choice."""
    curvature_options: Any = field(default_factory=dict)
    """The curvature's own options, such as {labels: data}."""
    damping: Positive = 0.1
    """Added to the spectrum, relative to its mean (our choice; 0.1 is usual for Kronecker factors)."""
    absolute_damping: Positive | None = None
    """Damping in the spectrum's own units, in place of the relative one; none: relative."""
    damping_per_layer: bool = False
    """Relative to the mean of each layer's own spectrum, in place of the model's (our choice)."""
    cycles: Count = 1
    """Steps, each with the gradient at the new weights (our choice)."""
    refresh: bool = True
    """Fit the curvature again in every cycle (our choice)."""
    restore: bool = False
    """Before each step but the first, a Newton step down the retain KL with the same curvature (our choice)."""
    step: Step = "budget"
    """How eta is found: budget, line_search or targets (both need targets), or fixed (step_size); our choice."""
    budget: Positive = 0.1
    """Most retain KL (nats per token) over all cycles (our choice)."""
    step_size: Positive | None = None
    """eta, for step: fixed."""
    stop_at_targets: bool = True
    """Leave out rows that have reached their target, where targets are known (our choice)."""

    def __post_init__(self) -> None:
        directions.check(self)

    @property
    def needs(self) -> Needs:
        parts = {"retain": 1, "curvature": 2, "acceptance": 1}
        return Needs(retain=True, parts=parts, fewest_retain=16)

    def cost(self, problem: Problem) -> Passes:
        return Passes(trained=measuring(problem.splits["curvature"].windows))  # the first fit

    def init(self, problem: Problem) -> State:
        state = objective.with_targets(problem, self.step in directions.TO_TARGETS)
        state.caches["fit"] = directions.fit(problem, self, self.damping_per_layer)
        if self.restore:
            seen = [problem.splits[name] for name in ("retain", "curvature") if name in problem.splits]
            state.caches["kept"] = [(split, keep_distributions(problem, split)) for split in seen]
        return state

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        steps: list[Propose] = []
        keeps = directions.bytes_of(self)
        for cycle in range(self.cycles):
            step = directions.rule(self, (cycle + 1) / self.cycles)
            fits = 1 if cycle and self.refresh and not self.restore else 0
            passes = {"forget": 1, "retain": 1, "curvature": directions.passes_of(self, problem, fits, solves=2)}
            if self.restore and cycle:  # whose gradient is taken on retain and curvature rows
                curvature = 1 + directions.passes_of(self, problem, fits=int(self.refresh), solves=1)
                back = {"retain": 1, "curvature": curvature}
                steps.append(
                    Propose(name="restoration", propose=self._restore, step=Restore(), passes=back, bytes=keeps)
                )
            steps.append(Propose(name="removal", propose=self._propose, step=step, passes=passes, bytes=keeps))
        return tuple(steps) if self.restore else (Repeat(tuple(steps), 1),)

    def _propose(self, problem: Problem, state: State) -> Proposal:
        carried = state.carried.pop("fit", None)
        fitted = self._fit(problem, state) if carried is None else directions.fit_from(problem, self, carried)
        state.carried["moved"] = True
        return directions.ascent(problem, state, fitted, self.stop_at_targets)

    def _restore(self, problem: Problem, state: State) -> Proposal:
        """With the curvature at the new weights, which the next removal uses too: where the softmax was saturated, the
        old one is far too small."""
        fitted = self._fit(problem, state)
        state.carried |= {"fit": fitted.state_dict()} if self.refresh else {}
        return directions.restoration(problem, fitted, state.caches["kept"])

    def _fit(self, problem: Problem, state: State) -> directions.Fit:
        if self.refresh and state.carried.get("moved"):
            return directions.fit(problem, self, self.damping_per_layer)
        fitted: directions.Fit = state.caches["fit"]
        return fitted
