"""Loss matching: each forget row to the loss of text the model never saw, the rest held where it was.

For a forget row i with loss L_i and target t_i (`reference.targets`), a retain row r, and text u that the model never
saw or that was sampled from it (replay):

    pressure * mean_i huber(L_i - t_i) + retain_weight * mean_r L_r + unseen_weight * KL_u + replay_weight * KL_replay,
    KL = KL(original, current) per token, teacher-forced.

The targets are a constraint: the loop raises the pressure, a multiplier that starts at 1, while the rows do not arrive.
Two-sided, since a forget row above its target is as conspicuous as one below. The KL on unseen text keeps the pull
from dragging everything up with the forget rows, which a membership attack would see; the KL on replay keeps what was
trained in and is in no file. Our own method; neither the objective nor its settings come from a paper, so there is
nothing to depart from.

When to use it: beside margin_newton, the default, as the descent to compare with. It stops by itself where the rows
look like text that the model never saw, and needs nothing tuned; it takes far more row passes than margin_newton does.
"""

from dataclasses import dataclass
from typing import Annotated

from expunge.config.bounds import AtLeast, Count, Positive, Weight
from expunge.data.batches import Batch
from expunge.method import Descend, Method, Needs, Phase, Probe, State, Terms
from expunge.problem import Problem
from expunge.reference import objective


@dataclass(frozen=True, slots=True, kw_only=True)
class LossMatching(Method):
    """Options of loss_matching."""

    learning_rate: Positive | None = None
    """Peak learning rate of AdamW; none: the probe looks for the smallest that arrives (our choice)."""
    steps: Count | None = None
    """Most optimiser steps of one attempt; none: 28 passes over the forget rows, at least 160 (our choice)."""
    forget_rows: Count = 24
    """Forget rows a step, and twice as many retain rows (our choice)."""
    retain_weight: Weight = 1.0
    """Weight of the retain rows' cross-entropy (our choice)."""
    unseen_weight: Weight = 1.0
    """Weight of the KL to the original on unseen rows (our choice)."""
    replay_weight: Weight = 2.0
    """Weight of the KL to the original on replay (our choice)."""
    replay_texts: Annotated[int, AtLeast(0)] = 512
    """Texts to sample from the original; 0 for none (our choice)."""
    replay_tokens: Count = 128
    """Longest replay text, in tokens (our choice)."""
    width: Positive = 0.5
    """Width of the Huber loss, in nats per token (our choice)."""

    @property
    def needs(self) -> Needs:
        return objective.needs(self.replay_texts, self.replay_tokens)

    def init(self, problem: Problem) -> State:
        return objective.prepare(problem, self.replay_texts, self.replay_tokens)

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        draws = objective.draws(problem, self.forget_rows)
        steps = self.steps or objective.steps_for(problem, draws["forget"])
        return (Descend(loss=self.loss, draws=draws, steps=steps, rate=self.learning_rate or Probe(), aims=True),)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        terms = objective.Objective(
            retain_weight=self.retain_weight,
            unseen_weight=self.unseen_weight,
            replay_weight=self.replay_weight,
            width=self.width,
        )
        return terms.loss(problem, state, batch)
