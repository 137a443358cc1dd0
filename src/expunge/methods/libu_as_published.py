"""LIBU as published: what the authors' public code does, in its signs and rules. To compare with.

Kudelya & Shirnin, *LoRA-enhanced influence-based unlearning* (2506.04044; SemEval-2025 Task 4), from the authors' code:

    phase 1   theta <- theta - lr / (F + lambda) * grad L(forget)    *down* the forget loss, F the mean over batches of
              the squared batch-mean gradient of the retain rows under their own labels, lambda absolute
    phase 2   their Sophia rule on the plain cross-entropy of the forget rows, which it minimises; no retain rows

`setup` is one of the paper's three (1 aggressive, 2 medium, 3 conservative: the one in its tables). Numbers that the
paper leaves open are those of the commits that we think match it. F is neither per example nor centred, so it measures
mean gradients, not curvature.

Departures from their code: no padding and no prompt in the loss, no word "None" between prompt and answer, no gradients
averaged in fp16 without unscaling, no dropout, the last weights in place of the checkpoint of the lowest forget loss,
the chosen subspace in place of a LoRA on the attention, our loop's warm-up and linear decay in place of a constant
rate, F of a quarter of the retain rows (as in libu), and forget losses that are means over rows of each row's mean,
where theirs are over a batch's tokens.

When to use it: only to compare with; on every model that we tried it trains the forget rows and forgets nothing.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from expunge.config.bounds import Count, Positive
from expunge.curvature import inner, spectrum
from expunge.data.batches import Batch, collate
from expunge.gradients.summed import accumulate, mean_gradient
from expunge.influence.refresh import WithSophia
from expunge.method import Descend, Method, Needs, Phase, Proposal, Propose, State, Terms
from expunge.model.losses import target_nll, window_means
from expunge.optim.sophia import Averages, Ratio, Rule, SophiaSettings
from expunge.optim.step_size import Fixed
from expunge.problem import Problem, Split
from expunge.runs import distributed


@dataclass(frozen=True, slots=True)
class Setup:
    """A set-up of the paper: learning rate, batch, accumulation, epochs, damping, probability of an update, gamma."""

    learning_rate: float
    batch: int
    accumulation: int
    epochs: int
    damping: float
    chance: float
    gamma: float


SETUPS = {
    1: Setup(4e-5, 4, 4, 4, 1e-3, 0.06, 1.2),  # learning rate, least accumulation: the paper; the rest as the third
    2: Setup(3e-5, 1, 6, 5, 8e-4, 0.08, 1.15),  # the authors' commit of 2025-02-11
    3: Setup(2e-5, 4, 8, 4, 1e-3, 0.06, 1.2),  # the paper; the authors' commit of 2025-01-15
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LIBUAsPublished(Method):
    """Options of libu_as_published."""

    setup: Literal[1, 2, 3] = 3
    """The paper's set-up (3 is the one in its tables)."""
    learning_rate: Positive | None = None
    """Of both phases; none: the set-up's."""
    steps: Count | None = None
    """Steps of phase 2; none: the set-up's epochs."""

    @property
    def needs(self) -> Needs:
        return Needs(retain=True, parts={"retain": 2, "curvature": 1, "acceptance": 1}, fewest_retain=16)

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        setup = SETUPS[self.setup]
        rows = setup.batch * setup.accumulation
        first = Propose(
            name="influence as published",
            propose=self.descend,
            step=Fixed(step=self.learning_rate or setup.learning_rate),
            passes={"forget": 1, "curvature": 1},
        )
        second = Descend(
            name="sophia as published",
            loss=_cross_entropy,
            draws={"forget": rows},
            steps=self.steps,
            passes=None if self.steps else setup.epochs,
            rate=self.learning_rate or setup.learning_rate,
            optimiser=WithSophia(
                settings=SophiaSettings(gamma=setup.gamma, betas=(0.9, 0.999), eps=1e-8, clip=float("inf")),
                rule=released(setup.chance),
                estimate=None,
            ),
        )
        return first, second

    def descend(self, problem: Problem, state: State) -> Proposal:
        """-(F + lambda)^-1 g: down the forget loss, as their code has it."""
        setup = SETUPS[self.setup]
        fisher = squared_batch_means(problem, problem.splits["curvature"], setup.batch)
        gradient = mean_gradient(problem, problem.splits["forget"], "row")
        direction = {name: -part / (fisher[name] + setup.damping) for name, part in gradient.items()}
        found = spectrum(fisher)
        return Proposal(
            direction=direction,
            forget_slope=inner(gradient, direction),
            notes={"damping": setup.damping, "mean_curvature": found.mean, "median_curvature": found.median},
        )


def released(chance: float) -> Rule:
    """Their Sophia: h <- b2 h + (1 - b2) g∘g of the *training* gradient for each tensor with probability `chance` in a
    step, both averages divided by 1 - b^t at step t, and c(m' / max(gamma h', eps))."""

    def observe(averages: Averages, gradient: Tensor, settings: SophiaSettings, draw: float) -> None:
        decay, slow = settings.betas
        averages["momentum"].lerp_(gradient, 1 - decay)
        if draw < chance:
            averages["curvature"].lerp_(gradient * gradient, 1 - slow)

    def ratio(averages: Averages, gamma: float, steps: int, settings: SophiaSettings) -> Ratio:
        begun, slow = (1 - beta**steps for beta in settings.betas)
        bound = (gamma * averages["curvature"] / slow).clamp_(min=settings.eps)
        return Ratio(averages["momentum"] / begun, bound)

    return Rule(observe, ratio)


def squared_batch_means(problem: Problem, split: Split, windows: int) -> dict[str, Tensor]:
    """The mean over batches of `windows` windows of the squared gradient of each batch's mean loss, labels of the data.

    What their code calls its Fisher.
    """
    squares = {
        name: torch.zeros_like(tensor, dtype=torch.promote_types(tensor.dtype, torch.float32))
        for name, tensor in problem.movable.items()
    }
    starts = range(0, len(split.windows), windows)
    for start in distributed.share(starts):
        batch = collate(split.name, split.windows, range(start, min(start + windows, len(split.windows))))
        targets = int(batch.counted.sum())

        def mean(part: Batch, targets: int = targets) -> Terms:
            return Terms({}, target_nll(problem.model, part).sum() / targets)

        for name, gradient in accumulate(problem, [batch], mean).gradients.items():
            squares[name] += gradient.to(squares[name].dtype).square() / len(starts)
    distributed.total_(squares)
    return squares


def _cross_entropy(problem: Problem, state: State, batch: Batch) -> Terms:
    """What their phase 2 minimises: it trains the forget rows."""
    loss = window_means(target_nll(problem.model, batch), batch).mean()
    return Terms({"forget": loss}, loss)
