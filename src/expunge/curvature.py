"""Contract: what a curvature is, and what is shared by those who use one: damping, solutions, inner products.

A curvature stands for a symmetric, positive semi-definite matrix C over the movable parameters. Each entry of
`curvatures/` says in its docstring which matrix it is (Gauss-Newton, Fisher with sampled labels, empirical Fisher) and
what is exact about it. All of them are sums over examples of outer products of gradients of the example's *summed*
loss, divided once, by the number of targets (tokens): so d' C d / 2 is the local form of the retain KL in nats per
token where the labels are `noise`, `sampled` or `exact`.

Vectors are mappings by the names of `Problem.movable`; a name that is missing counts as zero.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypedDict, cast

import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.problem import Problem, Split

Vector = Mapping[str, Tensor]
Status = Literal["solved", "not converged", "broke down"]
STATE_SHARE = 0.5  # of the free memory that a fitted state may take; plans refuse what a run would
DROWNS = 10.0  # times the mean of the spectrum: more damping than that, and the curvature hardly counts
NARROWEST = 128  # of a strip of a triangular product
BARE = 1e-4  # times the median: less damping than that, and the flattest directions decide


class Saved(TypedDict):
    """A `CurvatureState` as checkpoints and folders have it."""

    tensors: dict[str, Tensor]
    mean: float
    median: float
    means: dict[str, float]
    examples: int
    tokens: int
    notes: dict[str, Any]
    shared: dict[str, str]


@dataclass(slots=True)
class CurvatureState:
    """A fitted curvature: what depends only on the model and the rows. Tensors, so it can be kept.

    `tensors` by names that the entry chooses (those of parameters, mostly); `shared`: whose tensors stand for a
    parameter too; `factors` what was derived from tensors, which is derived again where it is missing. `means`: of the
    spectrum's diagonal over each parameter's coordinates with any gradient; `mean` and `median` of all of them.
    `alive`: parameters with any gradient at all; the others (A of a fresh LoRA, whose B is zero) have no curvature,
    which is not a curvature of zero, and get no step.
    """

    tensors: dict[str, Tensor]
    mean: float
    median: float
    means: dict[str, float]
    examples: int
    tokens: int
    notes: dict[str, Any] = field(default_factory=dict)
    shared: dict[str, str] = field(default_factory=dict)
    factors: dict[str, Any] = field(default_factory=dict)

    @property
    def alive(self) -> frozenset[str]:
        return frozenset(self.means)

    def state_dict(self) -> Saved:
        """Tensors and plain values; without what can be derived from them."""
        names = ("tensors", "mean", "median", "means", "examples", "tokens", "notes", "shared")
        return cast(Saved, {name: getattr(self, name) for name in names})


@dataclass(frozen=True, slots=True)
class Damping:
    """What is added to the spectrum, in its units: for each parameter, and `value` for all together.

    `warning` where it drowns the curvature, or is drowned by it.
    """

    value: float
    relative: float
    by_parameter: Mapping[str, float] = field(default_factory=dict)
    warning: str = ""

    def of(self, name: str) -> float:
        """The damping of one parameter's coordinates."""
        return self.by_parameter.get(name, self.value)


@dataclass(frozen=True, slots=True)
class Solution:
    """(C + damping)^-1 v, and how it went.

    `residual`: |(C + damping) x - v| / |v| where the solver looked at it, which iterative ones do. Trouble is a status
    and not an exception: *not converged* after the `iterations` that were allowed, or *broke down* where a product was
    not finite or the matrix not positive definite.
    """

    value: dict[str, Tensor]
    status: Status = "solved"
    residual: float | None = None
    iterations: int = 0


class Whitening(NamedTuple):
    """Of a layer's damped S (x) A: W_S [O, O] and W_A [I, I] with W' W the inverse of each factor; None for ones.

    `leader`: the layer whose inputs and W_A it shares, perhaps itself. `triangular`: both are lower triangular; else
    W_S is, and W_A may have fewer rows.
    """

    outputs: Tensor | None
    inputs: Tensor | None
    leader: str
    triangular: bool = True

    def to_outputs(self, x: Tensor) -> Tensor:
        """x W_S' for x [., O]."""
        return x if self.outputs is None else _to(x, self.outputs)

    def to_inputs(self, x: Tensor) -> Tensor:
        """x W_A' for x [., I]."""
        if self.inputs is None:
            return x
        return _to(x, self.inputs) if self.triangular else x @ self.inputs.T

    def from_outputs(self, x: Tensor) -> Tensor:
        """x W_S for x [., O]."""
        return x if self.outputs is None else _from(x, self.outputs)

    def from_inputs(self, x: Tensor) -> Tensor:
        """x W_A for x [., I], or as many as W_A has rows."""
        if self.inputs is None:
            return x
        return _from(x, self.inputs) if self.triangular else x @ self.inputs


def _to(x: Tensor, lower: Tensor) -> Tensor:
    """x W' for a lower triangular W [D, D], in strips that leave out what is zero: with four, 5/8 of the product."""
    found = x.new_empty(x.shape)
    for begin, end in _strips(len(lower)):
        torch.matmul(x[:, :end], lower[begin:end, :end].T, out=found[:, begin:end])
    return found


def _from(x: Tensor, lower: Tensor) -> Tensor:
    """x W likewise."""
    found = x.new_empty(x.shape)
    for begin, end in _strips(len(lower)):
        torch.matmul(x[:, begin:], lower[begin:, begin:end], out=found[:, begin:end])
    return found


def _strips(size: int) -> list[tuple[int, int]]:
    wide = max(NARROWEST, math.ceil(size / 4))
    return [(begin, min(begin + wide, size)) for begin in range(0, size, wide)]


class Passing(NamedTuple):
    """Forward and backward passes over all rows of the split: to fit a curvature, for a product, and for a solve."""

    fit: float = 1.0
    product: float = 0.0
    solve: float = 0.0


class Curvature(Protocol):
    """A curvature of the catalogue: a frozen dataclass that inherits this; its fields are its options.

    `forecasts`: whether d' C d / 2 is a forecast of the retain KL in nats per token. `has_powers`: whether `power` and
    `whiten` are there, which need a spectrum. `has_factors`: whether it is a product of two factors of each linear
    layer, so that `whitening` is there.
    """

    @property
    def forecasts(self) -> bool:
        return False

    @property
    def has_powers(self) -> bool:
        return False

    @property
    def has_factors(self) -> bool:
        return False

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        """Fits it at the current weights. Raises `InputError` for layers without per-example gradients."""
        ...

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        """C v, of the parameters of v that are alive."""
        ...

    def damped(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> dict[str, Tensor]:
        """(C + damping) v, which `solve` inverts; a matrix that is a product of factors has its factors damped."""
        product = self.matvec(problem, state, vector)
        return {name: part + damping.of(name) * vector[name] for name, part in product.items()}

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        """(C + damping)^-1 v; parameters that are not alive are left out."""
        ...

    def power(
        self, problem: Problem, state: CurvatureState, vector: Vector, exponent: float, damping: Damping
    ) -> dict[str, Tensor]:
        """(C + damping)^exponent v; parameters not alive are left out. Raises `InputError` where it has none."""
        raise InputError(f"curvature {type(self).__name__} has no fractional powers. Use diagonal or block.")

    def whiten(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> dict[str, Tensor]:
        """W v with W' W = (C + damping)^-1: coordinates in which the inner product is that of the damped inverse."""
        return self.power(problem, state, vector, -0.5, damping)

    def whitening(
        self, problem: Problem, state: CurvatureState, damping: Damping, release: bool = False
    ) -> Mapping[str, "Whitening"] | None:
        """By linear layer, where the damped matrix is a product of two factors of each; None where it is not.

        `release` lets go of each factor once it is whitened, which halves the memory; what is left serves `solve`,
        `whiten` and `whitening` with this damping, and no products or other powers.
        """
        return None

    def cost(self, rows: int) -> Passing:
        """What it costs on a split of so many rows; for plans."""
        return Passing()

    def bytes(self, shapes: Mapping[str, torch.Size]) -> int:
        """At the most, while it is fitted and after, over parameters of these shapes; for plans."""
        ...

    def whitened_bytes(self, shapes: Mapping[str, torch.Size], shared: Mapping[str, str]) -> int:
        """The same where `whitening` releases the factors; `shared`: of linear weights the first with the same input,
        where that is known."""
        return self.bytes(shapes)


def damping_for(
    state: CurvatureState, relative: float, absolute: float | None = None, per_layer: bool = False
) -> Damping:
    """`relative` times the mean of the spectrum, of the model or of each parameter, or an `absolute` one.

    Raises `InputError` unless it is above 0.
    """
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
    own = {name: relative * mean for name, mean in state.means.items()} if per_layer and absolute is None else {}
    return Damping(value, value / state.mean if state.mean else float("inf"), own, warning)


@dataclass(frozen=True, slots=True)
class Spectrum:
    """Mean and median of a diagonal over coordinates with a gradient, and each parameter's mean where it has any."""

    mean: float
    median: float
    means: dict[str, float]


def spectrum(diagonal: Mapping[str, Tensor]) -> Spectrum:
    """What is said of a diagonal. Raises `InputError` where an entry is not finite, naming the parameter."""
    total, count, values = 0.0, 0, []
    means = {}
    for name, entries in diagonal.items():
        if not torch.isfinite(entries).all():
            raise InputError(f"the curvature of {name} is not finite at these weights. Is the model broken already?")
        positive = entries[entries > 0]
        if len(positive):
            summed = float(positive.double().sum())
            means[name] = summed / len(positive)
            total, count = total + summed, count + len(positive)
            values.append(positive[:: max(1, len(positive) // 4096)].double().cpu())
    if not count:
        return Spectrum(0.0, 0.0, {})
    return Spectrum(total / count, float(torch.cat(values).median()), means)


def inner(left: Vector, right: Vector) -> float:
    """The inner product over the parameters that both have."""
    return float(sum(float((left[name].double() * right[name].double()).sum()) for name in left if name in right))


def cosine(left: Vector, right: Vector) -> float:
    """Cosine of two vectors; 0 where one of them is zero."""
    scale = (inner(left, left) * inner(right, right)) ** 0.5
    return inner(left, right) / scale if scale else 0.0
