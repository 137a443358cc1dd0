"""Curvatures against dense matrices in float64: powers, solves, both forms of the block inverse, damping."""

import pytest
import torch

from expunge.curvature import Damping, Spectrum, damping_for, inner, spectrum
from expunge.curvatures.block import ALL, Block, apply_power, cut, factor
from expunge.curvatures.diagonal import Diagonal
from expunge.curvatures.identity import Identity
from expunge.errors import InputError
from oracles import dense_power, rank_one_inverse, row_gradients, same
from problems import lora_of, model_of, problem_of

EXPONENTS = (-1.0, -0.5, -0.25)


def absolute(value: float) -> Damping:
    """The same for all parameters."""
    return Damping(value, relative=1.0)


@pytest.mark.parametrize("gradients", [3, 20])
@pytest.mark.parametrize("exponent", EXPONENTS)
def test_powers_of_a_block_equal_the_dense_ones(gradients: int, exponent: float) -> None:
    """Fewer gradients than coordinates (the m x m form) and more (the K x K form)."""
    random = torch.Generator().manual_seed(0)
    stacked = torch.randn(2, gradients, 7, generator=random).double()
    vector = torch.randn(2, 7, generator=random).double()
    found = apply_power(factor(stacked), stacked, vector, exponent, 0.03)
    for block in range(2):
        dense = 0.03 * torch.eye(7).double() + stacked[block].T @ stacked[block]
        assert torch.allclose(found[block], dense_power(dense, exponent) @ vector[block], rtol=1e-9, atol=1e-10)


def test_woodfisher_s_recursion_gives_the_same_inverse() -> None:
    """One gradient at a time, the papers' form: the dense inverse, and what the Gram form makes of a vector."""
    stacked = torch.randn(3, 12, 5, generator=torch.Generator().manual_seed(1)).double()
    inverse = rank_one_inverse(stacked, 0.01)
    for block in range(3):
        dense = 0.01 * torch.eye(5).double() + stacked[block].T @ stacked[block]
        assert torch.allclose(inverse[block] @ dense, torch.eye(5).double(), atol=1e-9)
    vector = torch.randn(3, 5, generator=torch.Generator().manual_seed(2)).double()
    gram = apply_power(factor(stacked), stacked, vector, -1.0, 0.01)
    assert torch.allclose(gram, torch.einsum("bkl,bl->bk", inverse, vector), rtol=1e-9, atol=1e-9)
    twice = rank_one_inverse(stacked / 12**0.5, 0.01)  # the counts divided twice
    assert (twice - inverse).abs().max() > 0.1 * inverse.abs().max()


@pytest.mark.parametrize("block", [4, None])
def test_block_of_a_model_equals_the_dense_inverse(block: int | None) -> None:
    """Empirical Fisher of a LoRA's gradients, in blocks of 4 and as one block over all parameters."""
    problem = problem_of(lora_of("gpt2"))
    split = problem.splits["retain"]
    curvature = Block(labels="data", block=block, gradients=99)
    state = curvature.init(problem, split)
    rows = row_gradients(problem, split)
    tokens = sum(window.targets for window in split.windows)
    vector = {name: gradients.sum(0) for name, gradients in rows.items()}
    solved = curvature.solve(problem, state, vector, absolute(0.02)).value
    moved = curvature.matvec(problem, state, vector)
    if block is None:
        flat = torch.cat([gradients.flatten(1) for gradients in rows.values()], dim=1)
        dense = flat.T @ flat / tokens
        whole = torch.cat([tensor.flatten() for tensor in vector.values()])
        expected = torch.linalg.solve(dense + 0.02 * torch.eye(len(dense)).double(), whole)
        assert torch.allclose(torch.cat([solved[name].flatten() for name in vector]), expected, atol=1e-9)
        assert torch.allclose(torch.cat([moved[name].flatten() for name in vector]), dense @ whole, atol=1e-9)
        return
    for name, gradients in rows.items():
        flat, whole = gradients.flatten(1), vector[name].flatten()
        for start in range(0, len(whole), block):
            part = flat[:, start : start + block]
            dense = part.T @ part / tokens
            expected = torch.linalg.solve(dense + 0.02 * torch.eye(len(dense)).double(), whole[start : start + block])
            assert torch.allclose(solved[name].flatten()[start : start + block], expected, rtol=1e-8, atol=1e-9)


def test_cutting_fills_the_last_block() -> None:
    assert cut(torch.arange(1, 6.0)[None], 2).tolist() == [[[1, 2]], [[3, 4]], [[5, 0]]]


def test_diagonal_is_the_mean_square_per_token() -> None:
    problem = problem_of(model_of("llama"))
    split = problem.splits["retain"]
    state = Diagonal(labels="data").init(problem, split)
    tokens = sum(window.targets for window in split.windows)
    expected = {name: rows.square().sum(0) / tokens for name, rows in row_gradients(problem, split).items()}
    assert same(state.tensors, expected)
    entries = torch.cat([tensor.flatten() for tensor in expected.values()])
    assert state.mean == pytest.approx(float(entries[entries > 0].mean()))
    vector = {name: torch.ones_like(tensor) for name, tensor in expected.items()}
    assert state.means == pytest.approx({name: float(part[part > 0].mean()) for name, part in expected.items()})
    solved = Diagonal(labels="data").solve(problem, state, vector, absolute(0.5))
    assert solved.status == "solved"
    assert same(solved.value, {name: 1 / (tensor + 0.5) for name, tensor in expected.items()})
    quarter = Diagonal(labels="data").power(problem, state, vector, -0.25, absolute(0.5))
    assert same(quarter, {name: (tensor + 0.5) ** -0.25 for name, tensor in expected.items()})


@pytest.mark.parametrize("curvature", [Diagonal(), Block(block=4, gradients=8)])
def test_a_fresh_lora_has_no_curvature_in_a(curvature: Diagonal | Block) -> None:
    """A's gradient is zero because B is: no curvature of zero, by which A would get the largest steps."""
    problem = problem_of(lora_of("llama", fresh=True))
    state = curvature.init(problem, problem.splits["retain"])
    assert state.alive == {name for name in problem.movable if "lora_B" in name}
    noise = {name: torch.randn_like(tensor) for name, tensor in problem.movable.items()}
    shaped = curvature.power(problem, state, noise, -0.25, absolute(0.1 * state.mean))
    assert set(shaped) == set(state.alive)
    with_a = (0.1 * state.mean) ** -0.25  # what a zero taken for a curvature would multiply A's noise by
    assert with_a > max(float(tensor.norm() / noise[name].norm()) for name, tensor in shaped.items())


def test_identity_scales() -> None:
    problem = problem_of(model_of("opt"))
    state = Identity().init(problem, problem.splits["retain"])
    vector = {name: torch.randn_like(tensor) for name, tensor in problem.movable.items()}
    solved = Identity().solve(problem, state, vector, absolute(1.0)).value
    assert same(solved, {name: tensor / 2 for name, tensor in vector.items()})
    assert inner(Identity().matvec(problem, state, vector), vector) == pytest.approx(inner(vector, vector))


def test_damping_is_relative_and_says_when_it_drowns_the_curvature() -> None:
    problem = problem_of(model_of("llama"))
    state = Diagonal(labels="data").init(problem, problem.splits["retain"])
    assert damping_for(state, 0.1) == Damping(0.1 * state.mean, pytest.approx(0.1))  # type: ignore[arg-type]
    assert "drowns the curvature" in damping_for(state, 0.1, absolute=11 * state.mean).warning
    assert f"{state.mean:.3g}" in damping_for(state, 11.0).warning
    assert "is drowned" in damping_for(state, 0.1, absolute=0.9e-4 * state.median).warning
    for relative, value in ((0.0, None), (0.1, 0.0), (0.1, float("inf")), (-1.0, None)):
        with pytest.raises(InputError, match="must be above 0"):
            damping_for(state, relative, value)


def test_damping_per_layer_is_relative_to_each_layer_s_own_mean() -> None:
    problem = problem_of(model_of("llama"))
    state = Diagonal(labels="data").init(problem, problem.splits["retain"])
    damping = damping_for(state, 0.1, per_layer=True)
    assert damping.value == damping_for(state, 0.1).value
    for name, tensor in state.tensors.items():
        assert damping.of(name) == pytest.approx(0.1 * float(tensor[tensor > 0].mean()))
    assert max(damping.by_parameter.values()) > 10 * min(damping.by_parameter.values())  # else it is the model's
    assert damping.of("another") == damping.value
    assert damping_for(state, 0.1, absolute=0.5, per_layer=True) == damping_for(state, 0.1, absolute=0.5)


def test_entries_that_are_not_finite_are_named() -> None:
    with pytest.raises(InputError, match="curvature of w is not finite"):
        spectrum({"w": torch.tensor([1.0, float("nan")])})
    assert spectrum({"w": torch.zeros(3)}) == Spectrum(0.0, 0.0, {})


def test_a_spectrum_is_told_over_coordinates_with_a_gradient() -> None:
    # entries above 0: 1, 3 of a and 8 of b; mean 12 / 3 = 4, median 3, means 2 and 8
    found = spectrum({"a": torch.tensor([1.0, 0.0, 3.0]), "b": torch.tensor([8.0, 0.0]), "c": torch.zeros(2)})
    assert found == Spectrum(4.0, 3.0, {"a": 2.0, "b": 8.0})


def test_noise_of_fisher_forgetting_has_its_covariance() -> None:
    """cov((mu sigma^2)^(1/4) (C + damping)^(-1/4) n) = sqrt(mu sigma^2) (C + damping)^(-1/2), within its errors."""
    stacked = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(2)).double()
    dense = stacked[0].T @ stacked[0] + 0.1 * torch.eye(4).double()
    draws, amplitude = 40_000, 0.3
    noise = torch.randn(draws, 4, generator=torch.Generator().manual_seed(3)).double()
    factors = tuple(
        tensor.expand(draws, -1, -1) if tensor.dim() == 3 else tensor.expand(draws, -1) for tensor in factor(stacked)
    )
    shaped = amplitude**0.25 * apply_power(factors, stacked.expand(draws, -1, -1), noise, -0.25, 0.1)  # type: ignore[arg-type]
    found = shaped.T @ shaped / draws
    expected = amplitude**0.5 * dense_power(dense, -0.5)
    spread = ((expected.diag()[:, None] * expected.diag() + expected**2) / draws).sqrt()
    assert ((found - expected).abs() < 5 * spread).all()
    whole = amplitude**0.5 * dense_power(dense, -1.0)  # the inverse in place of its root
    assert ((found - whole).abs() > 5 * spread).any()


def test_the_names_of_one_block() -> None:
    problem = problem_of(lora_of("llama"))
    assert set(Block(block=None, gradients=4).init(problem, problem.splits["retain"]).tensors) == {ALL}
