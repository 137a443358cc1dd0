"""One sweep over every curvature, found by discovery, in float64 on tiny problems; each check rejects a broken variant.

What a curvature need not hold follows from what it declares: `has_powers`; `tolerance` and `iterations` among its
options, where a solve is iterative; and a fit that takes no passes, of what is no matrix of the model. That two
processes find what one finds is held in tests/distributed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge import registry
from expunge.curvature import Curvature, CurvatureState, Damping, Solution, Vector, damping_for, inner
from expunge.curvatures.diagonal import Diagonal
from expunge.errors import InputError
from expunge.problem import Problem, Split
from expunge.runs.checkpoint import Checkpoints
from oracles import same
from problems import lora_of, model_of, problem_of

NAMES = registry.names("curvatures")
EXACT = 1e-9  # relative: of what is no iterative solve
DAMPING = 1.0  # relative to the mean, so that it counts and does not drown


def options(curvature: Curvature) -> set[str]:
    return {field.name for field in fields(curvature)}  # type: ignore[arg-type]


def tight(curvature: Any) -> Any:
    """The same, solving as far as float64 goes."""
    finest = {"tolerance": 1e-10, "iterations": 2000}
    return replace(curvature, **{name: value for name, value in finest.items() if name in options(curvature)})


def looks(curvature: Curvature) -> bool:
    """Whether its fit looks at the model at all; what does not is no matrix of it."""
    return curvature.cost(8).fit > 0


@dataclass(frozen=True)
class Fitted:
    """A curvature, the problem that it was fitted to, and its state."""

    curvature: Curvature
    problem: Problem
    state: CurvatureState

    @property
    def names(self) -> list[str]:
        """Of the parameters with a curvature, in the order of the problem."""
        return [name for name in self.problem.movable if name in self.state.alive]

    def flat(self, vector: Mapping[str, Tensor]) -> Tensor:
        return torch.cat([vector[name].flatten() for name in self.names])

    def parted(self, flat: Tensor) -> dict[str, Tensor]:
        sizes = [self.problem.movable[name].numel() for name in self.names]
        parts = zip(self.names, torch.split(flat, sizes), strict=True)
        return {name: part.view_as(self.problem.movable[name]) for name, part in parts}

    def random(self, seed: int) -> dict[str, Tensor]:
        """Of all parameters, those without a curvature too."""
        generator = torch.Generator().manual_seed(seed)
        return {
            name: torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            for name, tensor in self.problem.movable.items()
        }

    def damping(self, per_layer: bool = False) -> Damping:
        return damping_for(self.state, DAMPING, per_layer=per_layer)

    def matvec(self, vector: Vector) -> dict[str, Tensor]:
        return self.curvature.matvec(self.problem, self.state, vector)

    def solve(self, vector: Vector, damping: Damping) -> Solution:
        return self.curvature.solve(self.problem, self.state, vector, damping)

    def power(self, vector: Vector, exponent: float) -> dict[str, Tensor]:
        return self.curvature.power(self.problem, self.state, vector, exponent, self.damping())

    def whiten(self, vector: Vector) -> dict[str, Tensor]:
        return self.curvature.whiten(self.problem, self.state, vector, self.damping())


def fit(curvature: Curvature, model: Callable[[], Any], **more: Any) -> Fitted:
    problem = problem_of(model(), **more)
    return Fitted(curvature, problem, curvature.init(problem, problem.splits["retain"]))


@cache
def on_a_lora(curvature: Any) -> Fitted:
    return fit(curvature, partial(lora_of, "llama"))


@cache
def dense(curvature: Any) -> Tensor:
    """The matrix on a LoRA, product by product."""
    fitted = on_a_lora(curvature)
    count = sum(fitted.problem.movable[name].numel() for name in fitted.names)
    return torch.stack([fitted.flat(fitted.matvec(fitted.parted(unit))) for unit in torch.eye(count).double()], dim=1)


def damped(curvature: Any, damping: Damping) -> Tensor:
    """The damped matrix: with the damping of every coordinate on its diagonal, unless both factors of a layer are
    damped (whose own tests have them by hand); then it is larger by at least that."""
    fitted = on_a_lora(curvature)
    own = {name: torch.full_like(fitted.problem.movable[name], damping.of(name)) for name in fitted.names}
    matrix = dense(curvature) + torch.diag(fitted.flat(own))
    units = (fitted.parted(unit) for unit in torch.eye(len(matrix)).double())
    columns = [fitted.flat(curvature.damped(fitted.problem, fitted.state, unit, damping)) for unit in units]
    found = torch.stack(columns, dim=1)
    if not (curvature.has_factors and looks(curvature)):
        assert float((found - matrix).abs().max()) <= EXACT * float(matrix.abs().max())
    assert float(torch.linalg.eigvalsh((found - matrix + (found - matrix).T) / 2).min()) >= -EXACT * float(matrix.max())
    return found


# The checks: each raises AssertionError


def symmetric(curvature: Any) -> None:
    matrix = dense(curvature)
    assert float((matrix - matrix.T).abs().max()) <= EXACT * float(matrix.abs().max())


def positive_semi_definite(curvature: Any) -> None:
    values = torch.linalg.eigvalsh(dense(curvature))
    assert float(values.max()) > 0
    assert float(values.min()) >= -EXACT * float(values.max())


def linear(curvature: Any) -> None:
    """On all weights, where no dense matrix is made: C (u + 2 v) = C u + 2 C v, and u' C v = v' C u."""
    fitted = fit(curvature, partial(model_of, "gpt2"))
    u, v = fitted.random(1), fitted.random(2)
    of_u, of_v = fitted.matvec(u), fitted.matvec(v)
    both = fitted.matvec({name: u[name] + 2 * v[name] for name in u})
    assert same(both, {name: of_u[name] + 2 * of_v[name] for name in of_u}, EXACT)
    assert inner(u, of_v) == pytest.approx(inner(v, of_u), rel=1e-8)


def inverts(curvature: Any, per_layer: bool = False) -> None:
    """(C + damping) x = v, as near as the solution says, which is as near as the options ask for."""
    fitted = on_a_lora(curvature)
    damping, right = fitted.damping(per_layer), fitted.random(3)
    solution = fitted.solve(right, damping)
    assert solution.status == "solved"
    assert list(solution.value) == fitted.names
    x, v = fitted.flat(solution.value), fitted.flat(right)
    residual = float((damped(curvature, damping) @ x - v).norm() / v.norm())
    if solution.residual is None:
        assert residual <= EXACT
    else:
        assert residual == pytest.approx(solution.residual, rel=1e-3, abs=1e-12)
        assert residual <= getattr(curvature, "tolerance", EXACT)


def inverts_tightly(curvature: Any) -> None:
    """To the last digits; so the dense solve is met, not only the residual."""
    curvature = tight(curvature)
    inverts(curvature)
    fitted = on_a_lora(curvature)
    damping, right = fitted.damping(), fitted.random(3)
    expected = torch.linalg.solve(damped(curvature, damping), fitted.flat(right))
    found = fitted.flat(fitted.solve(right, damping).value)
    assert float((found - expected).norm() / expected.norm()) <= 1e-7


def damps_by_layer(curvature: Any) -> None:
    """Each parameter by its own damping."""
    fitted = on_a_lora(curvature)
    own = set(fitted.damping(per_layer=True).by_parameter.values())
    assert len(own) > 1 or not looks(curvature)  # else nothing is shown
    inverts(tight(curvature), per_layer=True)


def powers_compose(curvature: Any) -> None:
    fitted = on_a_lora(curvature)
    if not curvature.has_powers:
        with pytest.raises(InputError, match="no fractional powers"):
            fitted.power(fitted.random(4), -0.5)
        return
    vector = {name: part for name, part in fitted.random(4).items() if name in fitted.names}
    whole = damped(curvature, fitted.damping()) @ fitted.flat(vector)
    assert same(fitted.power(vector, 1.0), fitted.parted(whole), EXACT)
    twice = fitted.power(fitted.power(vector, -0.5), -0.5)
    assert same(twice, fitted.solve(vector, fitted.damping()).value, 1e-8)
    assert same(fitted.power(fitted.power(vector, 0.5), -0.5), vector, 1e-8)
    quarters = vector
    for _ in range(4):
        quarters = fitted.power(quarters, -0.25)
    assert same(quarters, twice, 1e-8)
    assert same(fitted.power(vector, 0.0), vector, EXACT)


def whitens(curvature: Any) -> None:
    """The inner product of what is white is that of the damped inverse."""
    fitted = on_a_lora(curvature)
    u, v = fitted.random(5), fitted.random(6)
    if not curvature.has_powers:
        with pytest.raises(InputError, match="no fractional powers"):
            fitted.whiten(u)
        return
    expected = inner(u, fitted.solve(v, fitted.damping()).value)
    assert inner(fitted.whiten(u), fitted.whiten(v)) == pytest.approx(expected, rel=1e-8)
    length = inner(u, fitted.solve(u, fitted.damping()).value)
    assert inner(fitted.whiten(u), fitted.whiten(u)) == pytest.approx(length, rel=1e-8)


def leaves_out_what_has_no_gradient(curvature: Any) -> None:
    """A of a fresh LoRA, whose B is zero: no curvature is not a curvature of zero, by which it would go furthest."""
    fitted = fit(curvature, partial(lora_of, "llama", fresh=True))
    of_b = [name for name in fitted.problem.movable if "lora_B" in name]
    expected = of_b if looks(curvature) else list(fitted.problem.movable)
    vector = fitted.random(7)
    assert fitted.names == expected
    assert list(fitted.matvec(vector)) == expected
    assert list(fitted.solve(vector, fitted.damping()).value) == expected
    if curvature.has_powers:
        assert list(fitted.power(vector, -0.25)) == expected
        assert list(fitted.whiten(vector)) == expected


def is_the_same_however_batches_are_cut(curvature: Any) -> None:
    """One window at a time or all that there are, in fitting and in products."""
    whole, cut = fit(curvature, partial(model_of, "llama")), fit(curvature, partial(model_of, "llama"))
    cut.problem.portions.tokens = 16
    cut = replace(cut, state=curvature.init(cut.problem, cut.problem.splits["retain"]))
    assert cut.problem.portions.tokens == 16 and not cut.problem.portions.halvings
    vector, damping = whole.random(8), whole.damping()
    assert whole.names == cut.names
    assert (whole.state.examples, whole.state.tokens) == (cut.state.examples, cut.state.tokens)
    assert same(cut.matvec(vector), whole.matvec(vector), EXACT)
    one, other = (replace(each, curvature=tight(curvature)).solve(vector, damping).value for each in (whole, cut))
    assert same(one, other, 1e-7)


def survives_saving(curvature: Any) -> None:
    """What is read back gives the same products to the last bit."""
    fitted = on_a_lora(curvature)
    with TemporaryDirectory() as folder:
        kept = Checkpoints(Path(folder))
        kept.save("state", fitted.state.state_dict())
        back = replace(fitted, state=CurvatureState(**kept.load("state")))
    vector = fitted.random(9)
    assert back.state.state_dict().keys() == fitted.state.state_dict().keys()
    assert back.damping(per_layer=True) == fitted.damping(per_layer=True)
    assert same(back.matvec(vector), fitted.matvec(vector), 0.0)
    assert same(back.solve(vector, back.damping()).value, fitted.solve(vector, fitted.damping()).value, 0.0)
    if curvature.has_powers:
        assert same(back.power(vector, -0.25), fitted.power(vector, -0.25), 0.0)


def says_how_many_bytes_it_keeps(curvature: Any) -> None:
    """At the least those of the tensors that are kept, in float32 as runs have it."""
    for model in (lambda: lora_of("llama").float(), lambda: model_of("llama").float()):
        fitted = fit(curvature, model)
        real = sum(tensor.nbytes for tensor in fitted.state.tensors.values())
        assert real <= curvature.bytes({name: tensor.shape for name, tensor in fitted.problem.movable.items()})


def leaves_everything_as_it_was(curvature: Any) -> None:
    """Weights, gradients and the global chance; and the same fit comes out again."""
    problem = problem_of(lora_of("llama"))
    for tensor in problem.movable.values():
        tensor.grad = torch.ones_like(tensor)
    weights, chance = {name: part.clone() for name, part in problem.model.state_dict().items()}, torch.get_rng_state()
    first, again = (Fitted(curvature, problem, curvature.init(problem, problem.splits["retain"])) for _ in range(2))
    vector = first.random(10)
    assert same(first.matvec(vector), again.matvec(vector), 0.0)
    assert first.state.means == again.state.means and first.damping() == again.damping()
    found = first.solve(vector, first.damping()).value
    assert all(bool(part.isfinite().all()) for part in found.values())
    assert all(torch.equal(part, weights[name]) for name, part in problem.model.state_dict().items())
    assert all(tensor.grad is not None and bool((tensor.grad == 1).all()) for tensor in problem.movable.values())
    assert torch.equal(torch.get_rng_state(), chance)


# Broken variants of the diagonal, by the check that must reject each


class Asymmetric(Diagonal):
    """Each coordinate's product stands one place further on."""

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        products = super().matvec(problem, state, vector)
        return {name: part.flatten().roll(1).view_as(part) for name, part in products.items()}


class Negative(Diagonal):
    """The sign of one parameter is turned."""

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        products = super().matvec(problem, state, vector)
        first = next(iter(products))
        return products | {first: -products[first]}


class Squared(Diagonal):
    """Not linear in the vector."""

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        return super().matvec(problem, state, {name: part * part.abs() for name, part in vector.items()})


class Undamped(Diagonal):
    """Forgets the damping."""

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        return super().solve(problem, state, vector, Damping(1e-12, relative=0.0))


class Boastful(Diagonal):
    """Says that it is solved to a residual that it is not at."""

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        right = super().solve(problem, state, vector, damping).value
        return Solution({name: 1.1 * part for name, part in right.items()}, "solved", residual=1e-12, iterations=3)


class OneForAll(Diagonal):
    """The model's damping in every layer."""

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        return super().solve(problem, state, vector, replace(damping, by_parameter={}))


class ApartPowers(Diagonal):
    """C^p + damping^p in place of (C + damping)^p."""

    def power(
        self, problem: Problem, state: CurvatureState, vector: Vector, exponent: float, damping: Damping
    ) -> dict[str, Tensor]:
        return {
            name: part * (state.tensors[name] ** exponent + damping.of(name) ** exponent)
            for name, part in vector.items()
        }

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        return Solution(Diagonal().power(problem, state, vector, -1.0, damping))


class WhiteTwice(Diagonal):
    """The inverse in place of its root."""

    def whiten(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> dict[str, Tensor]:
        return self.power(problem, state, vector, -1.0, damping)


class CountsA(Diagonal):
    """A gradient of zero is taken for a curvature of zero, in solves alone."""

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        return Solution({name: part / (state.tensors[name] + damping.of(name)) for name, part in vector.items()})


class CountsAInProducts(Diagonal):
    """The same, in products alone."""

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        return {name: state.tensors[name] * part for name, part in vector.items()}


class ByBatch(Diagonal):
    """Divided by how many parts the rows are cut into."""

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        state = super().init(problem, split)
        parts = 1 if problem.portions.tokens is None else len(split.windows)
        return replace(state, tensors={name: part / parts for name, part in state.tensors.items()})


class KeepsSomethingElsewhere(Diagonal):
    """What a product hangs on stands among what can be derived again, and is not."""

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        return replace(super().init(problem, split), factors={"scale": 2.0})

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        scale = state.factors.get("scale", 1.0)
        return {name: scale * part for name, part in super().matvec(problem, state, vector).items()}


class Small(Diagonal):
    """A byte and a half a number, where there are four, and a moment's copy."""

    def bytes(self, shapes: Mapping[str, torch.Size]) -> int:
        return super().bytes(shapes) * 3 // 16


class Nudging(Diagonal):
    """Leaves the weights a little elsewhere."""

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        state = super().init(problem, split)
        with torch.no_grad():
            next(iter(problem.movable.values())).mul_(1 + 1e-12)
        return state


class GlobalChance(Diagonal):
    """Draws from the global chance."""

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        state = super().init(problem, split)
        return replace(state, tensors={name: part * torch.rand(1) for name, part in state.tensors.items()})


Check = Callable[[Any], None]
CHECKS: dict[Check, tuple[type[Diagonal], ...]] = {
    symmetric: (Asymmetric,),
    positive_semi_definite: (Negative,),
    linear: (Squared, Asymmetric),
    inverts: (Undamped, Boastful),
    inverts_tightly: (Undamped,),
    damps_by_layer: (OneForAll,),
    powers_compose: (ApartPowers,),
    whitens: (WhiteTwice,),
    leaves_out_what_has_no_gradient: (CountsA, CountsAInProducts),
    is_the_same_however_batches_are_cut: (ByBatch,),
    survives_saving: (KeepsSomethingElsewhere,),
    says_how_many_bytes_it_keeps: (Small,),
    leaves_everything_as_it_was: (Nudging, GlobalChance),
}


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("name", NAMES)
def test_every_curvature_conforms(name: str, check: Check) -> None:
    check(registry.load("curvatures", name)())


@pytest.mark.parametrize(
    ("check", "broken"),
    [(check, broken) for check, variants in CHECKS.items() for broken in variants],
    ids=lambda part: part.__name__,
)
def test_what_is_broken_is_rejected(check: Check, broken: type[Diagonal]) -> None:
    with pytest.raises(AssertionError):
        check(broken())


def test_there_are_curvatures_of_every_kind() -> None:
    """Else a part of the sweep would check nothing."""
    made = [registry.load("curvatures", name)() for name in NAMES]
    assert {one.has_powers for one in made} == {True, False}
    assert {"tolerance" in options(one) for one in made} == {True, False}
    assert {looks(one) for one in made} == {True, False}
