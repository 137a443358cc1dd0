"""The Gauss-Newton matrix by products, against the dense one from explicit Jacobians; and conjugate gradients."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.curvature import CurvatureState, Damping, Solution, damping_for
from expunge.curvatures import ggn
from expunge.curvatures.ggn import GGN, conjugate_gradients
from expunge.data.splits import spread
from expunge.problem import Problem, Split
from oracles import same
from problems import FAMILIES, lora_of, model_of, problem_of

Middle = Callable[[Tensor, int], Tensor]
TIGHT = GGN(tolerance=1e-11, iterations=5000)


def covariance(p: Tensor, label: int) -> Tensor:
    return torch.diag(p) - torch.outer(p, p)


def without_the_mean(p: Tensor, label: int) -> Tensor:
    """Broken: p p' is missing."""
    return torch.diag(p)


def of_the_data(p: Tensor, label: int) -> Tensor:
    """Broken: the data's own label, which gives the empirical Fisher."""
    away = p - torch.eye(len(p), dtype=p.dtype)[label]
    return torch.outer(away, away)


def dense(problem: Problem, split: Split, middle: Middle = covariance) -> Tensor:
    """sum_t J_t' M_t J_t [P, P] over the targets t of all windows, each run without padding; P in the names' order."""
    parameters = list(problem.movable.values())
    count = sum(tensor.numel() for tensor in parameters)
    total = torch.zeros(count, count, dtype=torch.float64)
    for window in split.windows:
        logits = problem.model(input_ids=torch.tensor([window.ids]), use_cache=False).logits[0]
        for place in (place for place, counts in enumerate(window.counted) if counts):
            rows = [
                torch.autograd.grad(one, parameters, retain_graph=True, allow_unused=True, materialize_grads=True)
                for one in logits[place - 1]
            ]
            jacobian = torch.stack([torch.cat([part.flatten() for part in row]) for row in rows])
            total += jacobian.T @ middle(logits[place - 1].detach().softmax(dim=0), window.ids[place]) @ jacobian
    return total


def targets(split: Split) -> int:
    return sum(window.targets for window in split.windows)


def flat(vector: Any) -> Tensor:
    return torch.cat([part.flatten() for part in vector.values()])


def random_vector(problem: Problem, seed: int = 0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
        for name, tensor in problem.movable.items()
    }


def near(found: Tensor, expected: Tensor, tolerance: float = 1e-9) -> bool:
    return bool((found - expected).norm() <= tolerance * expected.norm())


def fit(model: Any, curvature: GGN = TIGHT) -> tuple[Problem, CurvatureState]:
    problem = problem_of(model, {"retain": (1, 2, 1, 1)})
    return problem, curvature.init(problem, problem.splits["retain"])


MODELS: dict[str, Callable[[], Any]] = {f"{family}, all": partial(model_of, family) for family in FAMILIES}
MODELS |= {f"{family}, LoRA": partial(lora_of, family) for family in ("llama", "gpt2")}


@pytest.mark.parametrize("name", MODELS)
def test_products_are_those_of_the_dense_matrix(name: str) -> None:
    problem, state = fit(MODELS[name]())
    split, vector = problem.splits["retain"], random_vector(problem)
    found = flat(TIGHT.matvec(problem, state, vector))
    assert (state.examples, state.tokens) == (4, targets(split))
    assert near(found, dense(problem, split) @ flat(vector) / targets(split))
    broken = {
        "no p p'": dense(problem, split, without_the_mean) / targets(split),
        "labels of the data": dense(problem, split, of_the_data) / targets(split),
        "divided by rows": dense(problem, split) / len(split),
        "divided by windows": dense(problem, split) / len(split.windows),
    }
    for what, matrix in broken.items():
        assert not near(found, matrix @ flat(vector), 0.05), what


def test_a_fresh_lora_s_a_has_no_curvature_and_is_left_out() -> None:
    problem, state = fit(lora_of("llama", fresh=True))
    of_b = {name for name in problem.movable if "lora_B" in name}
    assert state.alive == of_b
    vector = random_vector(problem)
    found = TIGHT.matvec(problem, state, vector)
    assert found.keys() == of_b
    matrix = dense(problem, problem.splits["retain"]) / state.tokens
    alive = torch.cat([torch.full((part.numel(),), name in of_b) for name, part in problem.movable.items()])
    assert not matrix[~alive].any()
    assert near(flat(found), matrix[alive][:, alive] @ flat(vector)[alive])


def test_it_is_a_mean_over_rows_that_are_spread_over_those_given() -> None:
    problem = problem_of(model_of("llama"), {"retain": (1, 2, 1, 1, 3, 1)})
    split, vector = problem.splits["retain"], random_vector(problem)
    state = GGN(rows=3).init(problem, split)
    some = split.of(spread(6, 3), "some")
    assert (state.examples, state.tokens) == (3, targets(some))
    found = flat(GGN().matvec(problem, state, vector))
    assert near(found, dense(problem, some) @ flat(vector) / targets(some))
    assert not near(found, dense(problem, split) @ flat(vector) / targets(split), 0.05)


def test_it_stays_that_of_the_weights_at_which_it_was_taken() -> None:
    """And the weights that are there when it is asked are so afterwards, bit for bit; nor do gradients appear."""
    problem, state = fit(model_of("llama"))
    vector = random_vector(problem)
    damping = damping_for(state, 0.1)
    before = TIGHT.matvec(problem, state, vector), GGN().solve(problem, state, vector, damping)
    with torch.no_grad():
        for name, tensor in problem.movable.items():
            tensor += 0.1 * random_vector(problem, 1)[name]
            tensor.grad = torch.ones_like(tensor)
    moved = problem.snapshot()
    after = TIGHT.matvec(problem, state, vector), GGN().solve(problem, state, vector, damping)
    assert all(torch.equal(moved[name], tensor) for name, tensor in problem.movable.items())
    assert all(tensor.grad is not None and bool((tensor.grad == 1).all()) for tensor in problem.movable.values())
    assert same(after[0], before[0], 0.0) and same(after[1].value, before[1].value, 0.0)
    anew = TIGHT.init(problem, problem.splits["retain"])
    assert not near(flat(TIGHT.matvec(problem, anew, vector)), flat(before[0]), 0.05)  # of the weights that are there


def test_the_weights_are_back_where_a_product_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, state = fit(model_of("llama"))
    with torch.no_grad():
        next(iter(problem.movable.values())).mul_(1.5)
    moved = problem.snapshot()

    def fail(*given: Any) -> dict[str, Tensor]:
        assert not all(torch.equal(moved[name], tensor) for name, tensor in problem.movable.items())
        raise RuntimeError("made up")

    monkeypatch.setattr(ggn, "_of_batch", fail)
    with pytest.raises(RuntimeError, match="made up"):
        TIGHT.matvec(problem, state, random_vector(problem))
    assert all(torch.equal(moved[name], tensor) for name, tensor in problem.movable.items())


def damped(problem: Problem, matrix: Tensor, damping: Damping) -> Tensor:
    added = [torch.full_like(part.flatten(), damping.of(name)) for name, part in problem.movable.items()]
    return matrix + torch.diag(torch.cat(added).detach())


@pytest.mark.parametrize("per_layer", [False, True])
def test_a_solve_is_that_of_the_dense_matrix(per_layer: bool) -> None:
    problem, state = fit(lora_of("llama"))
    vector = random_vector(problem)
    damping = damping_for(state, 1.0, per_layer=per_layer)
    found = TIGHT.solve(problem, state, vector, damping)
    matrix = dense(problem, problem.splits["retain"]) / state.tokens
    assert found.status == "solved" and found.residual is not None and found.residual <= 1e-11
    assert near(flat(found.value), torch.linalg.solve(damped(problem, matrix, damping), flat(vector)), 1e-8)
    other = damping_for(state, 1.0, per_layer=not per_layer)
    for broken in (matrix + 1e-12 * torch.eye(len(matrix)).double(), damped(problem, matrix, other)):
        assert not near(flat(found.value), torch.linalg.solve(broken, flat(vector)), 0.05)


@pytest.mark.parametrize("curvature", [GGN(), GGN(iterations=3), GGN(tolerance=0.5)])
def test_the_residual_that_is_told_is_the_true_one(curvature: GGN) -> None:
    problem, state = fit(lora_of("gpt2"))
    vector, damping = random_vector(problem), damping_for(state, 0.1)
    found = curvature.solve(problem, state, vector, damping)
    matrix = damped(problem, dense(problem, problem.splits["retain"]) / state.tokens, damping)
    true = float((matrix @ flat(found.value) - flat(vector)).norm() / flat(vector).norm())
    assert found.residual == pytest.approx(true, rel=1e-6)
    assert (found.status == "solved") == (true <= curvature.tolerance) == (curvature.iterations > 3)
    assert found.iterations <= curvature.iterations


def test_a_solve_that_did_not_converge_is_a_descent_direction_all_the_same() -> None:
    """v' x > 0, and each step of conjugate gradients lowers x' A x / 2 - v' x."""
    problem, state = fit(lora_of("llama"))
    vector, damping = random_vector(problem), damping_for(state, 1e-3)
    matrix = damped(problem, dense(problem, problem.splits["retain"]) / state.tokens, damping)
    values = []
    for iterations in (1, 2, 4, 8):
        found = flat(GGN(iterations=iterations).solve(problem, state, vector, damping).value)
        assert float(found @ flat(vector)) > 0
        values.append(float(found @ matrix @ found / 2 - found @ flat(vector)))
    assert values == sorted(values, reverse=True) and len(set(values)) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_solve_in_float32_reaches_what_it_tells(dtype: torch.dtype) -> None:
    """Vectors in bfloat16 are solved in float32: its sums over many steps would lose the residual."""
    curvature = GGN(iterations=200)
    problem, state = fit(lora_of("llama").float(), curvature)
    vector, damping = {name: part.to(dtype) for name, part in random_vector(problem).items()}, damping_for(state, 0.1)
    found = curvature.solve(problem, state, vector, damping)
    assert found.status == "solved" and {part.dtype for part in found.value.values()} == {torch.float32}
    product = curvature.matvec(problem, state, found.value)
    left = flat(product) + damping.value * flat(found.value) - flat(vector).float()
    assert float(left.norm() / flat(vector).float().norm()) == pytest.approx(found.residual, rel=0.05)


# Conjugate gradients, by matrices


def system(eigenvalues: list[float], seed: int = 0) -> tuple[Tensor, dict[str, Tensor]]:
    """A symmetric matrix with those eigenvalues, and a right side in two parts."""
    size = len(eigenvalues)
    generator = torch.Generator().manual_seed(seed)
    turn = torch.linalg.qr(torch.randn(size, size, generator=generator).double()).Q
    right = torch.randn(size, generator=generator).double()
    return turn @ torch.diag(torch.tensor(eigenvalues).double()) @ turn.T, {"a": right[:2], "b": right[2:].view(1, -1)}


def solved(
    matrix: Tensor, right: dict[str, Tensor], iterations: int, tolerance: float = 1e-10
) -> tuple[Solution, float]:
    """What conjugate gradients find, and the residual by the matrix."""

    def multiply(vector: Any) -> dict[str, Tensor]:
        product = matrix @ flat(vector)
        return {"a": product[:2], "b": product[2:].view(1, -1)}

    found = conjugate_gradients(multiply, right, tolerance, iterations)
    return found, float((matrix @ flat(found.value) - flat(right)).norm() / flat(right).norm())


def test_n_steps_solve_a_system_of_n() -> None:
    matrix, right = system([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])
    found, true = solved(matrix, right, iterations=6)
    assert found.status == "solved" and found.iterations == 6 and true < 1e-10
    assert torch.allclose(flat(found.value), torch.linalg.solve(matrix, flat(right)), rtol=1e-9, atol=1e-9)
    assert {name: part.shape for name, part in found.value.items()} == {"a": (2,), "b": (1, 4)}
    turned, off = solved(-torch.linalg.inv(matrix), right, iterations=6)  # broken: another matrix's products
    assert turned.status == "broke down" and off > 0.1


def test_as_many_steps_as_there_are_eigenvalues_are_enough() -> None:
    matrix, right = system([1.0, 1.0, 4.0, 4.0, 4.0, 9.0])
    found, _ = solved(matrix, right, iterations=6)
    assert found.status == "solved" and found.iterations == 3
    apart, _ = solved(system([1.0, 2.0, 4.0, 5.0, 6.0, 9.0])[0], right, iterations=6)
    assert apart.iterations == 6


@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_too_few_steps_are_said_with_the_residual_that_is_left(iterations: int) -> None:
    matrix, right = system([1e-3, 1.0, 3.0, 5.0, 80.0, 1300.0])
    found, true = solved(matrix, right, iterations)
    assert (found.status, found.iterations) == ("not converged", iterations)
    assert found.residual == pytest.approx(true, rel=1e-6) and true > 1e-6


def test_an_indefinite_matrix_breaks_down_at_the_last_good_step() -> None:
    matrix, right = system([-5.0, 1.0, 2.0, 3.0, 4.0, 6.0])
    found, true = solved(matrix, right, iterations=50)
    assert found.status == "broke down" and found.iterations < 6
    assert found.residual == pytest.approx(true) and true > 1e-3
    assert all(bool(part.isfinite().all()) for part in found.value.values())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_products_that_are_not_finite_break_down(wrong: float) -> None:
    matrix, right = system([1.0, 2.0, 3.0, 5.0, 8.0, 13.0])
    found, _ = solved(matrix * wrong, right, iterations=50)
    assert (found.status, found.iterations, found.residual) == ("broke down", 0, 1.0)
    assert not flat(found.value).any()


def test_nothing_is_solved_at_once() -> None:
    matrix, right = system([1.0, 2.0, 3.0])
    found, _ = solved(matrix, {name: torch.zeros_like(part) for name, part in right.items()}, iterations=9)
    assert (found.status, found.iterations, found.residual) == ("solved", 0, 0.0)
    assert not flat(found.value).any()


def test_rows_of_another_problem_are_solved_with_the_state_s_own() -> None:
    """The state holds its rows: what the problem's splits are does not matter any more."""
    problem, state = fit(model_of("llama"))
    vector = random_vector(problem)
    elsewhere = replace(problem, splits={})
    assert same(TIGHT.matvec(elsewhere, state, vector), TIGHT.matvec(problem, state, vector), 0.0)
