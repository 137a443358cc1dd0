"""Contract: what a curvature is, and what is shared by those who use one: damping, inner products.

A curvature stands for a symmetric, positive semi-definite matrix C over the movable parameters. Each entry of
`curvatures/` says in its docstring which matrix it is (Gauss-Newton, Fisher with sampled labels, empirical Fisher) and
what is exact about it. All of them are sums over examples of outer products of gradients of the example's *summed*
loss, divided once, by the number of targets (tokens): so d' C d / 2 is the local form of the retain KL in nats per
token where the labels are `noise`, `sampled` or `exact`.

Vectors are mappings by the names of `Problem.movable`; a name that is missing counts as zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.problem import Problem, Split

Vector = Mapping[str, Tensor]
DROWNS = 10.0  # times the mean of the spectrum: more damping than that, and the curvature hardly counts
BARE = 1e-4  # times the median: less damping than that, and the flattest directions decide


@dataclass(slots=True)
class CurvatureState:
    """A fitted curvature: what depends only on the model and the rows. Tensors, so it can be kept.

    `tensors` by parameter name, as the entry needs them; `factors` what was derived from them. `mean` and `median` of
    the spectrum's diagonal over the coordinates with any gradient. `alive`: parameters with any gradient at all; the
    others (A of a fresh LoRA, whose B is zero) have no curvature, which is not a curvature of zero, and get no step.
    """

    tensors: dict[str, Tensor]
    mean: float
    median: float
    alive: frozenset[str]
    examples: int
    tokens: int
    notes: dict[str, Any] = field(default_factory=dict)
    factors: dict[str, Any] = field(default_factory=dict)


class Curvature(Protocol):
    """A curvature of the catalogue: a frozen dataclass whose fields are its options.

    `forecasts` says whether d' C d / 2 is a forecast of the retain KL in nats per token.
    """

    @property
    def forecasts(self) -> bool: ...

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        """Fits it at the current weights. Raises `InputError` for layers without per-example gradients."""
        ...

    def matvec(self, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        """C v."""
        ...

    def solve(self, state: CurvatureState, vector: Vector, damping: float) -> dict[str, Tensor]:
        """(C + damping I)^-1 v; parameters that are not alive are left out."""
        ...

    def power(self, state: CurvatureState, vector: Vector, exponent: float, damping: float) -> dict[str, Tensor]:
        """(C + damping I)^exponent v; parameters that are not alive are left out."""
        ...


@dataclass(frozen=True, slots=True)
class Damping:
    """What is added to the spectrum, in its units; `warning` where it drowns the curvature, or is drowned by it."""

    value: float
    relative: float
    warning: str = ""


def damping_for(state: CurvatureState, relative: float, absolute: float | None = None) -> Damping:
    """`relative` times the mean of the spectrum, or an `absolute` one. Raises `InputError` unless it is above 0."""
    value = relative * state.mean if absolute is None else absolute
    if not (value > 0 and value < float("inf")):
        named = f"damping {relative}" if absolute is None else f"absolute_damping {absolute}"
        raise InputError(
            f"{named} with a mean curvature of {state.mean:.3g}: the damping must be above 0 and finite. "
            "Give a damping above 0; a mean of 0 says that the retain rows have no gradient in what may move."
        )
    warning = ""
    if value > DROWNS * state.mean:
        warning = f"damping {value:.3g} drowns the curvature (mean {state.mean:.3g}): close to a plain gradient step"
    elif value < BARE * state.median:
        warning = f"damping {value:.3g} is drowned by the curvature (median {state.median:.3g}): expect long steps"
    return Damping(value, value / state.mean if state.mean else float("inf"), warning)


def summary(diagonal: Mapping[str, Tensor]) -> tuple[float, float, frozenset[str]]:
    """Mean and median of a spectrum's diagonal over coordinates with a gradient, and the parameters that have any.

    Raises `InputError` where an entry is not finite, naming the parameter.
    """
    total, count, values = 0.0, 0, []
    alive = set()
    for name, entries in diagonal.items():
        if not torch.isfinite(entries).all():
            raise InputError(f"the curvature of {name} is not finite at these weights. Is the model broken already?")
        positive = entries[entries > 0]
        if len(positive):
            alive.add(name)
            total, count = total + float(positive.double().sum()), count + len(positive)
            values.append(positive[:: max(1, len(positive) // 4096)].double().cpu())
    if not count:
        return 0.0, 0.0, frozenset()
    return total / count, float(torch.cat(values).median()), frozenset(alive)


def shuffled(entries: Tensor, seed: int) -> Tensor:
    """The same entries in another order: a control that keeps the scale and throws the structure away."""
    order = torch.randperm(entries.numel(), generator=torch.Generator().manual_seed(seed))
    return entries.flatten()[order.to(entries.device)].view_as(entries)


def inner(left: Vector, right: Vector) -> float:
    """The inner product over the parameters that both have."""
    return float(sum(float((left[name].double() * right[name].double()).sum()) for name in left if name in right))


def cosine(left: Vector, right: Vector) -> float:
    """Cosine of two vectors; 0 where one of them is zero."""
    scale = (inner(left, left) * inner(right, right)) ** 0.5
    return inner(left, right) / scale if scale else 0.0
