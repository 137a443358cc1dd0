"""LIBU: an influence step through the damped inverse diagonal Fisher of the retain rows, then Sophia.

Kudelya & Shirnin, *LoRA-enhanced influence-based unlearning* (2506.04044; SemEval-2025 Task 4), known to us from
third-party notes and from the authors' public code. Default, the paper's idea done right:

    phase 1   theta <- theta + eta (F(retain) + damping)^-1 grad L(forget)         up the forget loss, once
    phase 2   Sophia on the objective of loss_matching, towards its targets        curvature of the retain rows

On a fresh LoRA only B has a gradient, so only B moves in the first step of phase 1. The damping is relative to the mean
of F over coordinates with a gradient; the step is the largest within a retain budget, measured on acceptance rows.
Phase 2 ends where loss_matching ends, and trains on the rows that the curvature was fitted on too. `phases_run` leaves
one of them out, `curvature` names another matrix: the ablation that the paper lacks. `cycles` with `step: targets` lets
phase 1 go all the way, in several steps, so that phase 2 only repairs, in all the steps it is given. F is the
Gauss-Newton diagonal (noise cotangent) unless `curvature_options: {labels: data}`.

`variant: as_published` is what the authors' public code does, in its signs and rules:

    phase 1   theta <- theta - lr / (F + lambda) * grad L(forget)    *down* the forget loss, F the mean over batches of
              the squared batch-mean gradient of the retain rows under their own labels, lambda absolute
    phase 2   their Sophia rule on the plain cross-entropy of the forget rows, which it minimises; no retain rows

`setup` is one of the paper's three (1 aggressive, 2 medium, 3 conservative: the one in its tables). Numbers that the
paper leaves open are those of the commits that we think match it.

Departures of `as_published` from their code: no padding and no prompt in the loss, no word "None" between prompt and
answer, no gradients averaged in fp16 without unscaling, no dropout, the last weights in place of the checkpoint of the
lowest forget loss, the chosen subspace in place of a LoRA on the attention, our loop's warm-up and linear decay in
place of a constant rate, F of a quarter of the retain rows (as in the default), and forget losses that are means over
rows of each row's mean, where theirs are over a batch's tokens. Departures of the default from the paper: the sign as
its code has it, the objective and the Sophia of phase 2, damping and step, all as said above.

When to use it: with `cycles: 5, step: targets, curvature: block, optimiser: adamw`, where what was trained in and is in
no file matters most: of that it lost less than loss_matching on small models, and a little more of what it was given.
`as_published` only to compare with.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal

from expunge import influence
from expunge.curvature import inner, summary
from expunge.data.batches import Batch
from expunge.gradients.summed import mean_gradient, squared_batch_means
from expunge.influence import Step, Unit
from expunge.method import LossPhase, Phase, Proposal, ProposalPhase, Repeat, State, Terms
from expunge.model.losses import target_nll, window_means
from expunge.optim.sophia import LIBU, SophiaSettings
from expunge.optim.step_size import Fixed
from expunge.problem import Problem
from expunge.reference import objective


@dataclass(frozen=True, slots=True)
class Published:
    """A set-up of the paper: learning rate, batch, accumulation, epochs, damping, probability of an update, gamma."""

    learning_rate: float
    batch: int
    accumulation: int
    epochs: int
    damping: float
    chance: float
    gamma: float


SETUPS = {
    1: Published(4e-5, 4, 4, 4, 1e-3, 0.06, 1.2),  # learning rate, least accumulation: the paper; the rest as the third
    2: Published(3e-5, 1, 6, 5, 8e-4, 0.08, 1.15),  # the authors' commit of 2025-02-11
    3: Published(2e-5, 4, 8, 4, 1e-3, 0.06, 1.2),  # the paper; the authors' commit of 2025-01-15
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Libu:
    """Options of libu."""

    needs_retain: ClassVar[bool] = True
    needs_targets: ClassVar[bool] = True
    retain_parts: ClassVar[dict[str, int]] = {"retain": 2, "curvature": 1, "acceptance": 1}
    fewest_retain: ClassVar[int] = 16

    variant: Literal["ours", "as_published"] = "ours"
    """The paper's idea done right, or what its code does (ours is our choice)."""
    setup: Literal[1, 2, 3] = 3
    """Of as_published: the paper's set-up (3 is the one in its tables)."""
    phases_run: Literal["both", "first", "second"] = "both"
    """Leave one of the two phases out (the paper runs both)."""
    curvature: str = "diagonal"
    """Of phase 1: entry of the curvatures catalogue (the paper: diagonal)."""
    curvature_options: Any = field(default_factory=dict)
    """The curvature's own options, such as {labels: data}."""
    cycles: int = 1
    """Steps of phase 1, each with gradient and curvature at the new weights (the paper: one)."""
    damping: float = 0.1
    """Added to the spectrum, relative to its mean over coordinates with a gradient (our choice)."""
    absolute_damping: float | None = None
    """Damping in the spectrum's own units, in place of the relative one (the paper has 1e-3); none: relative."""
    step: Step = "budget"
    """How phase 1 finds its step: budget, line_search, targets, or fixed (step_size); our choice."""
    budget: float = 0.05
    """Most retain KL (nats per token) or rise of retain loss in the whole of phase 1 (our choice)."""
    budget_unit: Unit = "kl"
    """What the budget counts: kl or loss (our choice)."""
    step_size: float | None = None
    """eta of phase 1, for step: fixed."""
    learning_rate: float | None = None
    """Peak learning rate of phase 2; none: the probe looks for it. Of as_published: of both; none: the set-up's."""
    steps: int | None = None
    """Most steps of phase 2; none: as loss_matching, or as the set-up."""
    optimiser: Literal["sophia", "adamw"] = "sophia"
    """Of phase 2 (the paper: sophia)."""
    forget_rows: int = 24
    """Forget rows a step of phase 2 (as loss_matching)."""
    refresh_every: int = 10
    """Steps between curvature estimates of Sophia (its paper's value)."""
    unclipped: float = 0.3
    """Share of coordinates that Sophia's gamma leaves unclipped (its paper: 10 to 50 %)."""
    estimator: Literal["noise", "bartlett", "squared"] = "noise"
    """Sophia's curvature estimate: noise (our choice), bartlett (its paper), squared (training gradients)."""
    control: Literal["none", "shuffled", "identity"] = "none"
    """Of the ablation: Sophia's curvature permuted over the coordinates of each tensor, or one for all
    (our choice)."""
    retain_weight: float = 1.0
    """Weight of the retain rows' cross-entropy (as loss_matching)."""
    unseen_weight: float = 1.0
    """Weight of the KL to the original on unseen rows (as loss_matching)."""
    replay_weight: float = 2.0
    """Weight of the KL to the original on replay (as loss_matching)."""
    replay_texts: int = 512
    """Texts to sample from the original; 0 for none (as loss_matching)."""
    replay_tokens: int = 128
    """Longest replay text, in tokens (as loss_matching)."""
    width: float = 0.5
    """Width of the Huber loss, in nats per token (as loss_matching)."""

    def __post_init__(self) -> None:
        influence.check(self)
        self._sophia()

    def init(self, problem: Problem) -> State:
        if self.variant == "as_published":
            return State()
        if self.phases_run == "first":
            return objective.with_targets(problem)
        state = objective.prepare(problem, self.replay_texts, self.replay_tokens)
        state.splits["retain"] = problem.splits["retain"].joined(problem.splits["curvature"])  # for phase 2
        return state

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        both = (self._published if self.variant == "as_published" else self._ours)(problem)
        return {"both": both, "first": both[:1], "second": both[1:]}[self.phases_run]

    def _ours(self, problem: Problem) -> tuple[Phase, Phase]:
        draws = objective.draws(problem, self.forget_rows)
        passes = {"forget": 1, "retain": 1, "curvature": 1}
        rules = [influence.rule(self, (cycle + 1) / self.cycles) for cycle in range(self.cycles)]
        steps = [ProposalPhase(name="influence", propose=self._ascend, step=rule, passes=passes) for rule in rules]
        second = LossPhase(
            name=self.optimiser,
            loss=self.loss,
            draws=draws,
            steps=self.steps or objective.steps_for(problem, draws["forget"]),
            learning_rate=self.learning_rate,
            aims=True,
            optimiser=self._sophia() if self.optimiser == "sophia" else None,
        )
        return Repeat(tuple(steps), 1), second

    def _sophia(self) -> SophiaSettings:
        return SophiaSettings(
            unclipped=self.unclipped,
            refresh_every=self.refresh_every,
            estimator=self.estimator,
            curvature_on="retain",
            control=self.control,
        )

    def _ascend(self, problem: Problem, state: State) -> Proposal:
        return influence.ascent(problem, state, influence.fit(problem, self), stop_at_targets=True)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        """Of phase 2: the objective of loss_matching."""
        return objective.loss(self, problem, state, batch)

    def _published(self, problem: Problem) -> tuple[Phase, Phase]:
        setup = SETUPS[self.setup]
        rows = setup.batch * setup.accumulation
        first = ProposalPhase(
            name="influence as published",
            propose=self._descend,
            step=Fixed(step=self.learning_rate or setup.learning_rate),
            passes={"forget": 1, "curvature": 1},
        )
        second = LossPhase(
            name="sophia as published",
            loss=_cross_entropy,
            draws={"forget": rows},
            steps=self.steps or setup.epochs * math.ceil(len(problem.splits["forget"].windows) / rows),
            learning_rate=self.learning_rate or setup.learning_rate,
            optimiser=replace(LIBU, gamma=setup.gamma, chance=setup.chance),
        )
        return first, second

    def _descend(self, problem: Problem, state: State) -> Proposal:
        """-(F + lambda)^-1 g: down the forget loss, as their code has it."""
        setup = SETUPS[self.setup]
        fisher = squared_batch_means(problem, problem.splits["curvature"], setup.batch)
        gradient = mean_gradient(problem, problem.splits["forget"], "row")
        direction = {name: -part / (fisher[name] + setup.damping) for name, part in gradient.items()}
        mean, median, _ = summary(fisher)
        slope = inner(gradient, direction)
        return Proposal(
            direction=direction,
            forget_slope=slope,
            notes={"damping": setup.damping, "mean_curvature": mean, "median_curvature": median},
        )


def _cross_entropy(problem: Problem, state: State, batch: Batch) -> Terms:
    """What their phase 2 minimises: it trains the forget rows."""
    loss = window_means(target_nll(problem.model, batch), batch).mean()
    return Terms({"forget": loss}, loss)
