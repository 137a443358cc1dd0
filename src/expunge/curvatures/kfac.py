"""K-FAC: for each linear layer the product of two factors, of what comes in and of the gradient of what goes out.

    C_l = S_l (x) A_l,    A_l = mean over tokens of x x',    S_l = (1 / targets) sum over tokens of g g'

Martens and Grosse (1503.05671), in the form in which every token counts for itself ("expand" of Eschenhagen et al.,
2311.00636), as Grosse et al. use it for language models (2308.03296). A direction V [O, I] is multiplied as S V A. With
`noise`, `sampled` or `exact` labels it is the Gauss-Newton matrix of the mean loss per target (nats per token), layer
by layer, but for one thing: x x' and g g' of a token are taken for independent. With `data` labels it is the empirical
Fisher in the same sense. What comes in is averaged over all real tokens (padding left out by length), and layers that
share an input (q, k and v; gate and up) share that factor.

Both factors are damped, so that the damped matrix is a product too (Martens and Grosse, section 6.3):

    C_l + damping  ~  (S_l + d_S I) (x) (A_l + d_A I),    d_S d_A = damping,   d_S : d_A = mean diag S_l : mean diag A_l

So a relative damping of 0.01 of a layer's own mean adds a tenth of its mean to each factor. Inverse, powers and
whitening of the product are exact, from one Cholesky factorisation or eigenproblem of each factor, in float64.

Covers the weights of linear layers (GPT-2's Conv1D, a LoRA's two matrices), but not the output head: all others are not
alive, and get no step. Refused by name: layers that are used more than once in a pass (tied ones, called twice) or that
mix the windows of a batch (experts that gather tokens).

Departures: no moving averages, no eigenvalue correction (EK-FAC: better on one of two kinds of rows, worse on the
other, see docs/decisions.md); damping relative to each factor's mean.

When to use it: wherever it fits. A diagonal cannot see that text to keep and text to forget come in alike; this can.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.config.bounds import Count
from expunge.curvature import Curvature, CurvatureState, Damping, Passing, Solution, Vector, Whitening
from expunge.errors import InputError, NumericalError
from expunge.gradients.cotangents import Labels
from expunge.gradients.factors import factors
from expunge.model.layers import Linear, linear_weights
from expunge.problem import Problem, Split

INPUTS, OUTPUTS = "inputs", "outputs"  # end the names of factors; names of parameters hold no space
SAMPLE = 64  # coordinates of each factor's diagonal that a median is taken over


@dataclass(frozen=True, slots=True, kw_only=True)
class KFAC(Curvature):
    """Options of the kfac curvature."""

    labels: Labels = "noise"
    """Label source: noise, sampled, data (empirical) or exact (tiny models); our choice."""
    passes: Count = 1
    """Passes over the rows with fresh draws of noise or labels (our choice)."""

    @property
    def forecasts(self) -> bool:
        return self.labels != "data"

    @property
    def has_powers(self) -> bool:
        return True

    @property
    def has_factors(self) -> bool:
        return True

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        found = linear_weights(problem.model, problem.movable)
        layers = {name: one for name, one in found.items() if not _feeds_zero(problem.movable, name)}
        if not layers:
            raise InputError(
                "curvature kfac: no weight of a linear layer may move (the output head is none of them). Choose "
                "another --subspace, such as full or lora."
            )
        made = factors(problem, split, layers, self.labels, passes=1 if self.labels == "data" else self.passes)
        diagonals = {
            name: (made.outputs[name].diagonal(), made.inputs[leader].diagonal())
            for name, leader in made.leaders.items()
        }
        means = {name: float(s.double().mean() * a.double().mean()) for name, (s, a) in diagonals.items()}
        if broken := [name for name, mean in means.items() if not torch.isfinite(torch.tensor(mean))]:
            raise InputError(
                f"the curvature of {broken[0]} is not finite at these weights. Is the model broken already?"
            )
        means = {name: mean for name, mean in means.items() if mean > 0}
        sizes = {name: layers[name].outputs * layers[name].inputs for name in means}
        whole = sum(mean * sizes[name] for name, mean in means.items()) / max(1, sum(sizes.values()))
        leaders = _led(made.leaders, list(means))
        tensors = {f"{leaders[name]} {INPUTS}": made.inputs[made.leaders[name]] for name in means}
        tensors |= {f"{name} {OUTPUTS}": made.outputs[name] for name in means}
        median = _median([diagonals[name] for name in means])
        return CurvatureState(tensors, whole, median, means, len(split.rows), made.targets, {}, leaders)

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        layers = _layers(problem, state)
        return {
            name: _applied(layers[name], _outputs(state, name), vector[name], _inputs(state, name))
            for name in layers
            if name in vector
        }

    def damped(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> dict[str, Tensor]:
        layers, found = _layers(problem, state), {}
        for name in [name for name in layers if name in vector]:
            s, a = _damped(state, name, damping)
            found[name] = _applied(layers[name], s.to(vector[name].dtype), vector[name], a.to(vector[name].dtype))
        return found

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        layers, found = _layers(problem, state), {}
        for name in [name for name in layers if name in vector]:
            left, right = whitening(state, name, damping)
            white = _applied(layers[name], left, vector[name], right.T)
            found[name] = _applied(layers[name], left.T, white, right)
        return Solution(found)

    def power(
        self, problem: Problem, state: CurvatureState, vector: Vector, exponent: float, damping: Damping
    ) -> dict[str, Tensor]:
        layers, found = _layers(problem, state), {}
        for name in [name for name in layers if name in vector]:
            s, a = (_raised(part, exponent).to(vector[name].dtype) for part in _damped(state, name, damping))
            found[name] = _applied(layers[name], s, vector[name], a)
        return found

    def whiten(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> dict[str, Tensor]:
        layers, found = _layers(problem, state), {}
        for name in [name for name in layers if name in vector]:
            left, right = whitening(state, name, damping)
            found[name] = _applied(layers[name], left, vector[name], right.T)
        return found

    def whitening(
        self, problem: Problem, state: CurvatureState, damping: Damping, release: bool = False
    ) -> Mapping[str, Whitening]:
        found = {}
        for name in state.means:
            found[name] = Whitening(*whitening(state, name, damping), _leader(state, name))
            if release:  # a leader comes before those it leads, and what they need of its factors is in `factors`
                state.tensors.pop(f"{name} {OUTPUTS}", None)
                state.tensors.pop(f"{_leader(state, name)} {INPUTS}", None)
        return found

    def cost(self, rows: int) -> Passing:
        return Passing(fit=1 if self.labels == "data" else self.passes)

    def bytes(self, shapes: Mapping[str, torch.Size]) -> int:
        """Each factor and what whitens it, in float32; as if no two layers shared an input."""
        return 8 * sum(size**2 for shape in shapes.values() if len(shape) == 2 for size in shape)

    def whitened_bytes(self, shapes: Mapping[str, torch.Size], shared: Mapping[str, str]) -> int:
        """Each factor in float32, or what whitens it in its place, that of a shared input once; and while the largest
        is whitened, twice that in float64 and the result."""
        layers = {name: shape for name, shape in shapes.items() if len(shape) == 2}
        inputs = {shared.get(name, name): columns for name, (_, columns) in layers.items()}
        sizes = [*inputs.values(), *(rows for rows, _ in layers.values())]
        return 4 * sum(size**2 for size in sizes) + 20 * max(sizes, default=0) ** 2


def _feeds_zero(movable: Mapping[str, Tensor], name: str) -> bool:
    """Whether it is A of a LoRA whose B is zero, as in a fresh one: no gradient comes to it, and its factors, as wide
    as the model, would be made for nothing."""
    other = name.replace(".lora_A.", ".lora_B.")
    return other != name and other in movable and not bool(movable[other].any())


def _led(leaders: Mapping[str, str], alive: Sequence[str]) -> dict[str, str]:
    """For each layer that is alive the first such with the same input."""
    firsts: dict[str, str] = {}
    return {name: firsts.setdefault(leaders[name], name) for name in alive}


def whitening(state: CurvatureState, name: str, damping: Damping) -> tuple[Tensor, Tensor]:
    """W_S [O, O] and W_A [I, I] of a layer: W_S' W_S = (S + d_S)^-1 and W_A' W_A = (A + d_A)^-1, lower triangular.

    Inverse Cholesky factors, made in float64 and kept in the factors' dtype with the state, for one damping at a time.
    Where `KFAC.whitening` released the factors, that of another damping cannot be made any more.
    """
    found = []
    for side, key in ((0, f"{name} {OUTPUTS}"), (1, f"{_leader(state, name)} {INPUTS}")):
        own = _split_damping(state, name, damping)[side]
        kept = state.factors.get(key)
        if kept is None or not math.isclose(kept[0], own, rel_tol=1e-9):
            root, wrong = torch.linalg.cholesky_ex(_with(state.tensors[key], own))
            if bool(wrong):
                raise NumericalError(
                    f"layer {name}: damping {own:.2g} is too small to invert its curvature. Give more."
                )
            inverse = torch.eye(len(root), dtype=root.dtype, device=root.device)
            torch.linalg.solve_triangular(root, inverse, upper=False, out=inverse)
            state.factors[key] = kept = (own, inverse.to(state.tensors[key].dtype))
        found.append(kept[1])
    return found[0], found[1]


def _split_damping(state: CurvatureState, name: str, damping: Damping) -> tuple[float, float]:
    """d_S and d_A of a layer: their product is its damping, their ratio that of the factors' means.

    A layer that shares its input has its leader's d_A, so that they share what whitens it too; the ratio is then the
    leader's. With a damping relative to each layer's mean there is no difference.
    """
    leader = _leader(state, name)
    s, a = _mean(state, f"{leader} {OUTPUTS}"), _mean(state, f"{leader} {INPUTS}")
    d_a = (damping.of(leader) * a / s) ** 0.5
    return damping.of(name) / d_a, d_a


def _mean(state: CurvatureState, key: str) -> float:
    """Of a factor's diagonal; kept, since a factor may be let go of once it is whitened."""
    kept = f"mean of {key}"
    if kept not in state.factors:
        state.factors[kept] = float(state.tensors[key].diagonal().double().mean())
    found: float = state.factors[kept]
    return found


def _damped(state: CurvatureState, name: str, damping: Damping) -> tuple[Tensor, Tensor]:
    """S + d_S and A + d_A in float64."""
    d_s, d_a = _split_damping(state, name, damping)
    return _with(_outputs(state, name), d_s), _with(_inputs(state, name), d_a)


def _with(matrix: Tensor, damping: float) -> Tensor:
    """A copy in float64 with the damping on its diagonal."""
    found = matrix.to(torch.float64, copy=True)
    found.diagonal().add_(damping)
    return found


def _raised(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    raised: Tensor = (vectors * values**exponent) @ vectors.T
    return raised


def _applied(layer: Linear, left: Tensor, vector: Tensor, right: Tensor) -> Tensor:
    """left V right for V the vector as [O, I], in the vector's own shape."""
    return layer.matrix(left @ layer.matrix(vector) @ right)


def _layers(problem: Problem, state: CurvatureState) -> dict[str, Linear]:
    """The layers that have factors."""
    found = linear_weights(problem.model, problem.movable)
    return {name: one for name, one in found.items() if name in state.means}


def _leader(state: CurvatureState, name: str) -> str:
    return state.shared[name]


def _inputs(state: CurvatureState, name: str) -> Tensor:
    return state.tensors[f"{_leader(state, name)} {INPUTS}"]


def _outputs(state: CurvatureState, name: str) -> Tensor:
    return state.tensors[f"{name} {OUTPUTS}"]


def _median(diagonals: list[tuple[Tensor, Tensor]]) -> float:
    """Of the products of a spread of both diagonals, over all layers."""
    parts = []
    for s, a in diagonals:
        left, right = (part[:: max(1, len(part) // SAMPLE)].double().cpu() for part in (s, a))
        products = torch.outer(left, right).flatten()
        parts.append(products[products > 0])
    return float(torch.cat(parts).median()) if parts and len(torch.cat(parts)) else 0.0
