"""LIBU: an influence step through the damped inverse diagonal Fisher of the retain rows, then Sophia.

Kudelya & Shirnin, *LoRA-enhanced influence-based unlearning* (2506.04044; SemEval-2025 Task 4), known to us from
third-party notes and from the authors' public code. The paper's idea done right; what their code does is
`libu_as_published`:

    phase 1   theta <- theta + eta (F(retain) + damping)^-1 grad L(forget)         up the forget loss, once
    phase 2   Sophia on the objective of loss_matching, towards its targets        curvature of the retain rows

On a fresh LoRA only B has a gradient, so only B moves in the first step of phase 1. The damping is relative to the mean
of F over coordinates with a gradient; the step is the largest within a retain budget, measured on acceptance rows.
Phase 2 ends where loss_matching ends, and trains on the rows that the curvature was fitted on too. `curvature` names
another matrix. `cycles` with `step: targets` lets phase 1 go all the way, in several steps, so that phase 2 only
repairs, in all the steps it is given. F is the Gauss-Newton diagonal (noise cotangent) unless
`curvature_options: {labels: data}`.

Departures from the paper: the sign as its code has it, the objective and the Sophia of phase 2, damping and step, all
as said above.

When to use it: with `cycles: 5, step: targets, curvature: block, optimiser: adamw`, where what was trained in and is in
no file matters most: of that it lost less than loss_matching on small models, and a little more of what it was given.
"""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from expunge.config.bounds import AtLeast, Count, Positive
from expunge.influence import directions
from expunge.influence.directions import Step
from expunge.influence.refresh import WithSophia
from expunge.method import Descend, Method, Needs, Phase, Probe, Proposal, Propose, Repeat, State
from expunge.optim.step_size import StepRule
from expunge.optim.stepper import Plain
from expunge.problem import Problem
from expunge.reference import objective


@dataclass(frozen=True, slots=True, kw_only=True)
class LIBU(Method):
    """Options of libu."""

    curvature: str = "diagonal"
    """Of phase 1: entry of the curvatures catalogue (the paper: diagonal)."""
    curvature_options: Any = field(default_factory=dict)
    """The curvature's own options, such as {labels: data}."""
    cycles: Count = 1
    """Steps of phase 1, each with gradient and curvature at the new weights (the paper: one)."""
    damping: Positive = 0.1
    """Added to the spectrum, relative to its mean over coordinates with a gradient (our choice)."""
    absolute_damping: Positive | None = None
    """Damping in the spectrum's own units, in place of the relative one (the paper has 1e-3); none: relative."""
    step: Step = "budget"
    """How phase 1 finds its step: budget, line_search, targets, or fixed (step_size); our choice."""
    budget: Positive = 0.05
    """Most retain KL (nats per token) in the whole of phase 1 (our choice)."""
    step_size: Positive | None = None
    """eta of phase 1, for step: fixed."""
    learning_rate: Positive | None = None
    """Peak learning rate of phase 2; none: the probe looks for it."""
    steps: Count | None = None
    """Most steps of phase 2; none: as loss_matching."""
    optimiser: Literal["sophia", "adamw"] = "sophia"
    """Of phase 2 (the paper: sophia)."""
    forget_rows: Count = 24
    """Forget rows a step of phase 2 (as loss_matching)."""
    replay_texts: Annotated[int, AtLeast(0)] = 512
    """Texts to sample from the original; 0 for none (as loss_matching)."""
    replay_tokens: Count = 128
    """Longest replay text, in tokens (as loss_matching)."""

    def __post_init__(self) -> None:
        directions.check(self)

    @property
    def needs(self) -> Needs:
        parts = {"retain": 2, "curvature": 1, "acceptance": 1}
        return replace(
            objective.needs(self.replay_texts, self.replay_tokens), retain=True, parts=parts, fewest_retain=16
        )

    def init(self, problem: Problem) -> State:
        state = objective.prepare(problem, self.replay_texts, self.replay_tokens)
        state.splits["retain"] = problem.splits["retain"].joined(problem.splits["curvature"])  # for phase 2
        return state

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        draws = objective.draws(problem, self.forget_rows)
        rules = [directions.rule(self, (cycle + 1) / self.cycles) for cycle in range(self.cycles)]
        steps = [self._step(problem, rule) for rule in rules]
        second = Descend(
            name=self.optimiser,
            loss=objective.Objective().loss,
            draws=draws,
            steps=self.steps or objective.steps_for(problem, draws["forget"]),
            rate=self.learning_rate or Probe(),
            aims=True,
            optimiser=WithSophia() if self.optimiser == "sophia" else Plain(),
        )
        return Repeat(tuple(steps), 1), second

    def _step(self, problem: Problem, rule: StepRule) -> Propose:
        passes = {"forget": 1, "retain": 1, "curvature": directions.passes_of(self, problem, fits=1, solves=2)}
        keeps = directions.bytes_of(self)
        return Propose(name="influence", propose=self._ascend, step=rule, passes=passes, bytes=keeps)

    def _ascend(self, problem: Problem, state: State) -> Proposal:
        return directions.ascent(problem, state, directions.fit(problem, self), stop_at_targets=True)
