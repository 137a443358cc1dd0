"""NGDiff: forget against retain gradient, each at unit length, at the rate that suits the retain loss.

    d = g_r / |g_r| - g_f / |g_f|,    theta <- theta - eta d

Bu et al., *Unlearning as multi-task optimization: a normalized gradient difference approach with an adaptive learning
rate* (2410.22086). Gradient difference weighs two losses by hand; at unit length neither gradient drowns the other, and
to first order the retain loss falls while the forget loss rises, whatever their sizes, unless the two point the same
way. The rate eta is that of GeN (Bu and Xu, 2411.08969): the retain loss along d is taken for a parabola through its
values at -eta, 0 and eta, and the next eta is where that is least,

    eta* = eta (L(eta_-) - L(eta_+)) / (2 (L(eta_+) + L(eta_-) - 2 L(0))),    eta_+- = +-eta.

A parabola that opens downward, or falls towards -d, has no such place ahead, and one that is straight within rounding
has none that can be seen: the last eta is kept. The rate is measured
every `refresh_every` steps on the step's own retain rows.

Departures: plain SGD with d as its gradient, as the paper's equation has it, where the authors' code puts d into AdamW;
cross-entropy on retain rows and on forget rows, means over windows of each one's mean per token. Without retain rows d
is the forget gradient alone, at unit length and at the first rate. The forget term is unbounded, so the method
over-forgets if run long.

When to use it: as the baseline of gradient difference without a weight to tune.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.config.bounds import Count, Positive
from expunge.data.batches import Batch
from expunge.method import Descend, Gradients, Method, Phase, State, Terms, Trial
from expunge.model.losses import target_nll, window_means
from expunge.optim.stepper import Plain
from expunge.problem import Problem

RATE = "rate"  # in `State.carried`: the last eta
ROUNDING = 1e-6  # of the loss: a bend that is smaller may be what float32 makes of a straight line


@dataclass(frozen=True, slots=True, kw_only=True)
class NGDiff(Method):
    """Options of ng_diff."""

    first_rate: Positive = 0.01
    """eta until it is first measured, the length of a step in weights (our choice)."""
    epochs: Count = 10
    """Passes over the forget rows (the organisers' value for gradient difference)."""
    forget_rows: Count = 32
    """Forget rows a step, and as many retain rows (the organisers' value)."""
    refresh_every: Count = 10
    """Steps from one measurement of the rate to the next (the paper's value)."""

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        return (
            Descend(
                loss=self.loss,
                draws={"forget": self.forget_rows, "retain": self.forget_rows},
                passes=self.epochs,
                rate=self.rate,
                combine=difference,
                optimiser=Plain(make=lambda parameters: torch.optim.SGD(parameters, lr=0.0), clip=math.inf),
                trials={"retain": 3 / self.refresh_every},
            ),
        )

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        loss = window_means(target_nll(problem.model, batch), batch).mean()
        return Terms({batch.split: loss}, -loss if batch.split == "forget" else loss)

    def rate(self, trial: Trial) -> float:
        """The rate of a step, measured where that is due."""
        last = float(trial.state.carried.setdefault(RATE, self.first_rate))
        if trial.step % self.refresh_every == 0 and "retain" in trial.splits:
            at = {place: trial.loss_at(place * last, "retain") for place in (-1.0, 0.0, 1.0)}
            trial.state.carried[RATE] = last = least(at[-1.0], at[0.0], at[1.0], last)
        return last


def difference(by_split: Mapping[str, Gradients]) -> dict[str, Tensor]:
    """The sum of the splits' gradients, each divided by its norm over all parameters.

    The forget rows' gradient is already that of minus their loss, so the sum is the paper's difference. One that is
    zero, or not finite, is left as it is: the loop refuses what is not finite.
    """
    combined: dict[str, Tensor] = {}
    for gradients in by_split.values():
        norm = math.sqrt(sum(float(part.double().square().sum()) for part in gradients.values()))
        scale = 1 / norm if norm > 0 else 1.0
        for name, part in gradients.items():
            combined[name] = combined[name] + scale * part if name in combined else scale * part
    return combined


def least(before: float, here: float, ahead: float, rate: float) -> float:
    """Where the parabola through the losses at -rate, 0 and rate is least; `rate` where that is nowhere ahead."""
    bend = ahead + before - 2 * here
    fall = before - ahead
    if not (math.isfinite(bend) and math.isfinite(fall)) or bend <= ROUNDING * abs(here) or fall <= 0:
        return rate
    return rate * fall / (2 * bend)
