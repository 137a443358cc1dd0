"""The dual solve against dense matrices in float64, on four architectures and their LoRAs; and what must be seen."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dense_dual import Made
from expunge.curvature import Whitening
from expunge.errors import InputError
from expunge.influence import dual
from expunge.influence.dual import RowPairs, restoration, row_pairs, solved
from expunge.model.layers import Linear
from expunge.model.losses import margin_cotangent, margins
from expunge.model.trace import counter
from problems import FAMILIES

KINDS = [*FAMILIES, *(f"lora {family}" for family in FAMILIES)]


@pytest.mark.parametrize("kind", KINDS)
def test_gram_matrix_and_step_are_the_dense_ones(kind: str) -> None:
    made = Made(kind)
    pairs, jacobian, metric = made.pairs(), made.jacobian(), made.metric()
    inverse = torch.linalg.inv(metric)
    expected = jacobian @ inverse @ jacobian.T
    assert torch.allclose(pairs.gram, expected, rtol=1e-7, atol=1e-9 * float(expected.abs().max()))
    weights = torch.randn(len(made.split.rows), generator=torch.Generator().manual_seed(1)).double()
    step = made.flat(pairs.combined(weights))
    assert torch.allclose(step, inverse @ jacobian.T @ weights, rtol=1e-6, atol=1e-9 * float(step.abs().max()))
    gradient = {name: torch.randn_like(made.problem.movable[name]) for name in made.layers}
    solved_one, white = inverse @ made.flat(gradient), pairs.whitened(gradient)
    assert torch.allclose(pairs.along(white), jacobian @ solved_one, rtol=1e-6, atol=1e-8)
    back = made.flat({name: pairs.step(name, part) for name, part in white.items()})
    assert torch.allclose(back, solved_one, rtol=1e-6, atol=1e-9 * float(back.abs().max()))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_without_a_curvature_it_is_plain_least_squares(kind: str) -> None:
    made = Made(kind, metric="none")
    jacobian = made.jacobian()
    assert torch.allclose(made.pairs().gram, jacobian @ jacobian.T, rtol=1e-8)


def test_both_ways_to_the_gram_matrix_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = Made("llama").pairs()
    for x, g in pairs._pairs():
        assert torch.allclose(pairs._by_tokens(x, g), pairs._by_products(x, g), rtol=1e-9)
    whole = pairs.gram
    monkeypatch.setattr(dual, "MOST_PRODUCTS", 40)  # in strips
    assert torch.allclose(replace(pairs).gram, whole, rtol=1e-9)  # a copy has none yet


def test_the_step_meets_the_needs_and_is_the_smallest_that_does() -> None:
    made = Made("llama")
    pairs, jacobian, metric = made.pairs(), made.jacobian(), made.metric()
    deltas = torch.tensor([3.0, -1.0, 0.5, 2.0]).double()
    found = solved(pairs.gram, deltas, 0.0)
    step = made.flat(pairs.combined(found.weights))
    assert torch.allclose(jacobian @ step, deltas, atol=1e-6) and found.missed < 1e-9
    length = float(step @ metric @ step)
    for seed in range(20):  # any other that meets them differs by what moves no margin, and is longer
        other = torch.randn(len(step), generator=torch.Generator().manual_seed(seed)).double()
        other -= jacobian.T @ torch.linalg.solve(jacobian @ jacobian.T, jacobian @ other)
        moved = step + 0.1 * other * step.norm() / other.norm()
        assert torch.allclose(jacobian @ moved, deltas, atol=1e-6)
        assert float(moved @ metric @ moved) > length
    plain = jacobian.T @ torch.linalg.solve(
        jacobian @ jacobian.T, deltas
    )  # smallest in plain length, not in the metric
    assert float(plain @ metric @ plain) > 1.01 * length


@pytest.mark.parametrize("kind", ["llama", "gpt2", "lora llama"])
def test_plans_count_what_pairs_hold(kind: str) -> None:
    """In float32; the pairs here are in float64."""
    made = Made(kind)
    pairs = made.pairs()
    held = sum(part.nbytes for part in (*pairs.inputs.values(), *pairs.outputs.values())) // 2
    shapes = {name: made.problem.movable[name].shape for name in made.layers}
    shared = {name: made.whitening[name].leader for name in made.layers}
    assert held == made.split.tokens * dual.bytes_by_token(shapes, shared)
    if kind == "llama":  # q, k and v share an input, and gate and up another
        assert held < made.split.tokens * dual.bytes_by_token(shapes, {})


def test_pairs_that_memory_does_not_hold_are_refused_before_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Made("llama")
    shapes = {name: made.problem.movable[name].shape for name in made.layers}
    shared = {name: made.whitening[name].leader for name in made.layers}
    need = made.split.tokens * dual.bytes_by_token(shapes, shared)
    monkeypatch.setattr("expunge.runs.memory.free", lambda device: need)
    made.pairs()
    monkeypatch.setattr("expunge.runs.memory.free", lambda device: need - 1)
    monkeypatch.setattr(made.problem, "model", None)
    with pytest.raises(InputError, match=r"tokens of the forget rows .*--options.layers down\)"):
        made.pairs()


def test_damping_of_the_dual_gives_way_where_rows_disagree() -> None:
    gram = torch.tensor([[1.0, 1.0], [1.0, 1.0 + 1e-6]]).double()  # two rows of one direction
    wanted = torch.tensor([1.0, -1.0]).double()
    bold, careful = solved(gram, wanted, 0.0), solved(gram, wanted, 0.01)
    assert bold.weights.abs().max() > 1e5 and careful.weights.abs().max() < 300
    assert careful.missed > 0.9 and bold.missed < 1e-3
    assert careful.damping == pytest.approx(0.01 * (1 + 0.5e-6))


@pytest.mark.parametrize("kind", ["llama", "lora gpt2"])
def test_a_projected_direction_leaves_margins_where_they_are(kind: str) -> None:
    """To first order: the weighted margins themselves, measured on both sides of a small step."""
    made = Made(kind)
    pairs, jacobian, metric = made.pairs(), made.jacobian(), made.metric()
    gradient = {name: torch.randn_like(made.problem.movable[name]) for name in made.layers}
    wild = {name: -pairs.step(name, part) for name, part in pairs.whitened(gradient).items()}
    found = restoration(pairs, gradient, 0.0)
    tame, flat = found.direction, made.flat(found.direction)
    assert float((jacobian @ flat).abs().max()) < 1e-6 * float((jacobian @ made.flat(wild)).abs().max())
    assert found.slope == pytest.approx(float(made.flat(gradient) @ flat), rel=1e-6)
    assert found.slope == pytest.approx(-float(flat @ metric @ flat), rel=1e-6)  # steepest of what is left
    whole = made.flat(wild)
    assert found.left == pytest.approx(float(flat @ metric @ flat / (whole @ metric @ whole)) ** 0.5, rel=1e-6)
    moves = []
    for direction in (tame, wild):
        before = made.problem.snapshot()
        values, size = [], float(made.flat(direction).norm())
        for sign in (1, -1):
            with torch.no_grad():
                for name, part in direction.items():
                    made.problem.movable[name].copy_(before[name] + sign * 1e-3 * part / size)
            values.append(weighted_margins(made))
        made.problem.restore(before)
        moves.append(float((values[0] - values[1]).abs().max()))
    assert moves[0] < 1e-3 * moves[1]


def weighted_margins(made: Made) -> Tensor:
    found, place = torch.zeros(len(made.split.rows)).double(), 0
    with torch.no_grad():
        for window in made.split.windows:
            logits = made.problem.model(input_ids=torch.tensor([window.ids]), use_cache=False).logits[0]
            before = torch.tensor([t - 1 for t, counts in enumerate(window.counted) if counts])
            ids = torch.tensor([t for t, counts in zip(window.ids, window.counted, strict=True) if counts])
            found[window.row] += (made.shares[place : place + len(ids)] * margins(logits[before], ids)).sum()
            place += len(ids)
    return found


def test_it_does_not_depend_on_how_batches_are_cut() -> None:
    made = Made("opt")
    whole = made.pairs().gram
    made.problem.portions.tokens = 9
    assert torch.allclose(made.pairs().gram, whole, rtol=1e-9)


def test_mistakes_are_seen() -> None:
    made = Made("llama")
    expected = made.pairs().gram
    jacobian, metric = made.jacobian(), made.metric()

    def loss(logits: Tensor, places: Tensor) -> Tensor:
        """Gradients of losses in place of those of margins."""
        p = logits.softmax(dim=1)
        return made.shares[places, None] * p.scatter_add(1, made.ids[places, None], -torch.ones_like(p[:, :1]))

    losses = row_pairs(made.problem, made.split, made.layers, made.whitening, loss).gram
    turned = {
        name: Whitening(one.inputs, one.outputs, name)
        for name, one in made.whitening.items()
        if one.outputs is not None and one.inputs is not None and one.outputs.shape == one.inputs.shape
    }
    square = {name: made.layers[name] for name in turned}

    def margin(logits: Tensor, places: Tensor) -> Tensor:
        return -made.shares[places, None] * margin_cotangent(logits, made.ids[places])

    alone = {name: made.whitening[name]._replace(leader=name) for name in turned}
    exchanged = row_pairs(made.problem, made.split, square, turned, margin).gram
    right = row_pairs(made.problem, made.split, square, alone, margin).gram
    assert not torch.allclose(losses, expected, rtol=0.1)
    assert not torch.allclose(exchanged, right, rtol=0.1)
    assert not torch.allclose(expected, jacobian @ metric @ jacobian.T, rtol=0.1)  # C in place of its inverse


def test_on_a_linear_model_one_step_is_leaving_the_rows_out() -> None:
    """Ridge regression: the smallest step, in the metric of the rows that are left, that brings the predictions on the
    rows that go to where a model without them has them, is retraining without them; in other metrics it is not."""
    random = torch.Generator().manual_seed(0)
    count, size, damping = 60, 8, 0.05
    x = torch.randn(count, size, generator=random).double()
    y = x @ torch.randn(size, generator=random).double() + torch.randn(count, generator=random).double()
    gone = torch.arange(count) < 6

    def hessian(kept: Tensor) -> Tensor:
        return x[kept].T @ x[kept] / count + damping * torch.eye(size).double()

    def optimum(kept: Tensor) -> Tensor:
        return torch.linalg.solve(hessian(kept), x[kept].T @ y[kept] / count)

    everything = torch.ones(count, dtype=torch.bool)
    trained, retrained = optimum(everything), optimum(~gone)
    deltas = x[gone] @ (retrained - trained)

    def error(metric: Tensor, wanted: Tensor = deltas) -> float:
        root = torch.linalg.cholesky(metric)
        whitener = torch.linalg.solve_triangular(root, torch.eye(size).double(), upper=False)
        layer = {"w": Linear("w", 1, size)}
        pairs = RowPairs(
            layer,
            {"w": Whitening(None, whitener, "w")},
            {"w": x[gone] @ whitener.T},
            {"w": torch.ones(6, 1).double()},
            torch.arange(6),
            6,
        )
        step = pairs.combined(solved(pairs.gram, wanted, 0.0).weights)["w"][0]
        return float((trained + step - retrained).norm() / (trained - retrained).norm())

    assert error(hessian(~gone)) < 1e-9
    assert error(hessian(everything)) < 1e-9  # the rows that go change the metric along their own directions alone
    assert error(torch.eye(size).double()) > 0.1
    assert error(torch.diag(hessian(~gone).diagonal())) > 0.05
    assert error(hessian(~gone), -deltas) > 1.9


@pytest.mark.parametrize("back", [False, True])
def test_products_are_planned_about_as_they_are_counted(back: bool) -> None:
    """Pairs of the demo's size; whitening of pairs, which is half of this, is left out on both sides."""
    made = Made("llama")
    pairs = made.pairs()
    shapes = {name: made.problem.movable[name].shape for name in made.layers}
    gradient = {name: torch.randn_like(made.problem.movable[name]) for name in made.layers}
    problem = replace(made.problem, splits={"forget": made.split})
    with counter() as count:
        _ = pairs.gram
        if back:
            restoration(pairs, gradient, 0.01)
        else:
            pairs.combined(torch.ones(len(made.split.rows)).double())
    tokens = made.split.tokens
    whitening = tokens * sum(size[0] ** 2 + size[1] ** 2 for size in shapes.values())
    planned = dual.products(problem, 0, True, back, shapes) - whitening
    assert planned == pytest.approx(count.get_total_flops(), rel=0.5)
    assert dual.products(problem, 0, False, back, shapes) < planned
    assert dual.products(replace(problem, splits={}), 0, True, back, shapes) == 0
