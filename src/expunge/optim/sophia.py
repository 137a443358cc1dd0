"""Sophia: momentum over curvature, each coordinate of the step clipped to one learning rate. No model in here.

Liu et al. 2305.14342, Algorithm 3. With gradient g, momentum m, diagonal curvature h and c(x) = min(max(x, -1), 1):

    m <- b1 m + (1 - b1) g
    every k steps, from a fresh estimate e:  h <- b2 h + (1 - b2) e
    theta <- theta - lr * weight_decay * theta,  then  theta <- theta - lr * c(m / max(gamma h, eps))

A coordinate is *clipped* where |m| >= max(gamma h, eps): it moves by a full learning rate whatever its curvature, as
with sign momentum. Where h is 0 it is. The paper (section 3.1) asks for a gamma that leaves 10 to 50 % unclipped.

Departures:
- h is the moving average divided by 1 - b2^n after n estimates. The paper starts from 0, so that its h grows a
  hundredfold over the first hundreds of refreshes, and the unclipped share with it; our phases have some tens of
  refreshes, and gamma, set at the first, must keep its meaning. So the first estimate is taken whole, and the next
  ones count about as much as it.
- gamma None: set by the step after the first refresh to the quantile of |m| / h over coordinates with momentum
  (m != 0) that leaves the share `unclipped` below. After one step m is (1 - b1) g of one draw; it is set again at
  the second refresh, when m is a mean over draws, and later where the share measured midway left `unclipped_range`.

What a step's gradient does to the two averages, and what momentum is divided by, is a `Rule`: `PAPER` here; rules of
released code stand where they are compared with (`methods/libu_as_published.py`, benchmarks/controls).
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from expunge.errors import InputError

MOST_MEASURED = 1 << 22  # coordinates that a quantile or a share is taken over; more than that are sampled
EARLY_SETTINGS = 2  # refreshes at which gamma is set in any case


@dataclass(frozen=True, slots=True, kw_only=True)
class SophiaSettings:
    """Settings of Sophia. Sources: "paper" is 2305.14342, section 3.1, for Sophia-G."""

    gamma: float | None = None
    """Scale of the curvature; none: set by `unclipped`. The paper has 0.05 for pretraining, found by that rule."""
    unclipped: float = 0.3
    """Share of the coordinates with momentum left unclipped when gamma is set: the middle of the paper's 10 to 50 %."""
    unclipped_range: tuple[float, float] = (0.1, 0.5)
    """Where the share measured midway leaves it, the next refresh sets gamma anew. From the paper; (0, 1): never."""
    refresh_every: int = 10
    """Steps from one curvature estimate to the next. From the paper."""
    refresh_rows: int = 32
    """Windows of an estimate. Our choice; the paper takes 240 of 480."""
    refresh_most: int = 4
    """Windows squared together; fewer are steadier. Our choice; the paper squares each device's whole share."""
    betas: tuple[float, float] = (0.9, 0.9)
    """Decay of momentum and of curvature. Our choice: the paper's 0.96 and 0.99 average over 25 steps and 1,000, but a
    phase has some hundreds, in which gradient and curvature change."""
    eps: float = 1e-12
    """Smallest denominator. From the paper."""
    weight_decay: float = 0.0
    """Decoupled, as AdamW's. Our choice: the paper's 0.2 is for pretraining, unlearning should not shrink."""
    clip: float = 1.0
    """Norm that the gradient of a step is clipped to; inf: none. From the paper, as in our loop for AdamW."""

    def __post_init__(self) -> None:
        low, high = self.unclipped_range
        expected = {
            "gamma": self.gamma is None or self.gamma > 0,
            "unclipped": 0 < self.unclipped < 1,
            "unclipped_range": 0 <= low < self.unclipped < high <= 1,
            "refresh_every": self.refresh_every >= 1,
            "refresh_rows": self.refresh_rows >= 1,
            "refresh_most": self.refresh_most >= 1,
            "betas": all(0 <= beta < 1 for beta in self.betas),
            "eps": self.eps > 0,
            "weight_decay": self.weight_decay >= 0,
            "clip": self.clip > 0,
        }
        for name, holds in expected.items():
            if not holds:
                raise InputError(f"Sophia: {name} = {getattr(self, name)} is out of range. {_RANGES[name]}")


_RANGES = {
    "gamma": "Give a positive number, or none.",
    "unclipped": "Give a share between 0 and 1.",
    "unclipped_range": "Give two shares, the lower below `unclipped` and the upper above.",
    "refresh_every": "Give a number of steps, 1 or more.",
    "refresh_rows": "Give a number of rows, 1 or more.",
    "refresh_most": "Give a number of rows, 1 or more.",
    "betas": "Give two numbers from 0 to below 1.",
    "eps": "Give a positive number.",
    "weight_decay": "Give 0 or a positive number.",
    "clip": "Give a positive norm, or inf.",
}


class Ratio(NamedTuple):
    """Momentum and what it is divided by, coordinate by coordinate; the step is their quotient clipped to [-1, 1]."""

    momentum: Tensor
    bound: Tensor

    def step(self) -> Tensor:
        return (self.momentum / self.bound).clamp_(-1.0, 1.0)


Averages = dict[str, Tensor]  # "momentum" and "curvature" of one parameter


@dataclass(frozen=True, slots=True)
class Rule:
    """`observe(averages, gradient, settings, draw)`: what a step's gradient does to the averages; `draw` is a number of
    [0, 1) that chance gives this parameter in this step. `ratio(averages, gamma, steps, settings)`: momentum and bound
    after so many steps."""

    observe: Callable[[Averages, Tensor, SophiaSettings, float], None]
    ratio: Callable[[Averages, float, int, SophiaSettings], Ratio]


def _observe(averages: Averages, gradient: Tensor, settings: SophiaSettings, draw: float) -> None:
    averages["momentum"].lerp_(gradient, 1 - settings.betas[0])


def _ratio(averages: Averages, gamma: float, steps: int, settings: SophiaSettings) -> Ratio:
    return Ratio(averages["momentum"], (gamma * averages["curvature"]).clamp_(min=settings.eps))


PAPER = Rule(_observe, _ratio)


class Sophia(torch.optim.Optimizer):
    """Sophia over one list of parameters. `seed` is for rules that leave something to chance.

    Counters and gamma live in the parameter group, so that `state_dict` holds all there is.
    """

    def __init__(
        self, params: Iterable[Tensor], settings: SophiaSettings, rule: Rule = PAPER, lr: float = 0.0, seed: int = 0
    ) -> None:
        self.settings, self.rule = settings, rule
        counters = {"steps": 0, "refreshes": 0, "gamma": settings.gamma, "set_gamma": False, "seed": seed}
        super().__init__(list(params), {"lr": lr} | counters)

    @property
    def gamma(self) -> float | None:
        """The scale of the curvature in use; none before it is set."""
        gamma: float | None = self.param_groups[0]["gamma"]
        return gamma

    @torch.no_grad()
    def refresh(self, estimates: Sequence[Tensor], regauge: bool = False) -> None:
        """Takes a curvature estimate, one tensor for each parameter in order; `regauge`: the next step sets gamma."""
        group, beta = self.param_groups[0], self.settings.betas[1]
        group["refreshes"] += 1
        count = group["refreshes"]
        share = (1 - beta) / (1 - beta**count)  # 1 for the first: the average divided by 1 - beta^count
        for parameter, estimate in zip(group["params"], estimates, strict=True):
            self._state(parameter)["curvature"].lerp_(estimate, share)
        due = count <= EARLY_SETTINGS or regauge or self.gamma is None
        group["set_gamma"] = self.settings.gamma is None and due

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step by the rule."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[0]
        group["steps"] += 1
        self._observe()
        if group["set_gamma"]:
            group["gamma"], group["set_gamma"] = self._fitting_gamma(), False
        for parameter in self._moving():
            parameter.mul_(1 - group["lr"] * self.settings.weight_decay)
            parameter.sub_(self._ratio(parameter).step(), alpha=group["lr"])
        return loss

    @torch.no_grad()
    def unclipped_share(self) -> float:
        """Share of the coordinates with momentum that the step just taken left unclipped; NaN where none has any."""
        inside = total = 0
        for parameter, places in self._measured():
            momentum, bound = (_at(values, places) for values in self._ratio(parameter))
            inside += int(((momentum.abs() < bound) & (momentum != 0)).sum())
            total += int((momentum != 0).sum())
        return inside / total if total else float("nan")

    def _state(self, parameter: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[parameter]
        for name in ("momentum", "curvature"):
            if name not in state:
                state[name] = torch.zeros_like(parameter)
        return state

    def _moving(self) -> list[Tensor]:
        return [parameter for parameter in self.param_groups[0]["params"] if parameter.grad is not None]

    def _observe(self) -> None:
        """The gradients enter the averages."""
        group, moving = self.param_groups[0], self._moving()
        draws = np.random.default_rng((group["seed"], group["steps"])).random(len(moving))
        for parameter, draw in zip(moving, draws, strict=True):
            assert parameter.grad is not None
            self.rule.observe(self._state(parameter), parameter.grad, self.settings, float(draw))

    def _ratio(self, parameter: Tensor) -> Ratio:
        steps = self.param_groups[0]["steps"]
        return self.rule.ratio(self._state(parameter), self.gamma or 0.0, steps, self.settings)

    def _fitting_gamma(self) -> float | None:
        """The gamma that leaves the share `unclipped` of the coordinates with momentum below 1.

        Where too few of them have curvature, the one that leaves all but one of those that do; none have: unset.
        """
        ratios = []
        for parameter, places in self._measured():
            momentum, curvature = (_at(self._state(parameter)[name], places) for name in ("momentum", "curvature"))
            ratios.append((momentum.abs() / curvature)[momentum != 0])  # infinite where there is no curvature
        ordered = torch.cat(ratios).sort().values
        place = min(int(self.settings.unclipped * len(ordered)), int(ordered.isfinite().sum()) - 1)
        return float(ordered[place]) if place >= 0 else None

    def _measured(self) -> list[tuple[Tensor, Tensor | None]]:
        """Parameters with the coordinates to measure: all (none), or a random sample, the same every time."""
        parameters = [parameter for parameter in self.param_groups[0]["params"] if parameter in self.state]
        total = sum(parameter.numel() for parameter in parameters)
        if total <= MOST_MEASURED:
            return [(parameter, None) for parameter in parameters]
        generator, measured = torch.Generator().manual_seed(0), list[tuple[Tensor, Tensor | None]]()
        for parameter in parameters:
            count = max(1, parameter.numel() * MOST_MEASURED // total)
            places = torch.randint(parameter.numel(), (count,), generator=generator)
            measured.append((parameter, places.to(parameter.device)))
        return measured


def _at(values: Tensor, places: Tensor | None) -> Tensor:
    return values.flatten() if places is None else values.flatten()[places]
