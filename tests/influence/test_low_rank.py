"""Cuts in the metric against dense algebra in float64, and a whole run whose change is delivered in low rank."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.curvature import Whitening, damping_for
from expunge.curvatures.kfac import KFAC
from expunge.influence import low_rank
from expunge.influence.dual import covariant, row_pairs, solved
from expunge.influence.low_rank import ORIGINAL, SPAN, cut, within
from expunge.method import CHANGE, State
from expunge.model.layers import linear_weights
from expunge.model.losses import margin_cotangent
from expunge.problem import Problem
from problems import model_of, problem_of

SPLITS: dict[str, Any] = {"forget": (1, 2, 1, 1), "retain": (1, 1, 2)}


def problem(family: str = "llama") -> Problem:
    made = problem_of(model_of(family), SPLITS)
    layers = linear_weights(made.model, made.movable)
    made.movable = {name: made.movable[name] for name in layers}
    for name, tensor in made.model.named_parameters():
        tensor.requires_grad_(name in layers)
    return made


def whitenings(made: Problem) -> Any:
    curvature = KFAC(labels="data")
    state = curvature.init(made, made.splits["retain"])
    return curvature.whitening(made, state, damping_for(state, 0.01, per_layer=True))


def metric_norm(change: Tensor, one: Whitening) -> float:
    """tr(D' S D A) with S and A the damped factors themselves."""
    assert one.outputs is not None and one.inputs is not None
    s, a = (torch.linalg.inv(w.T @ w) for w in (one.outputs, one.inputs))
    return float((change.T @ s @ change @ a).trace())


def changes(made: Problem, seed: int = 0) -> dict[str, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(one.outputs, one.inputs, generator=chance).double()
        for name, one in linear_weights(made.model, made.movable).items()
    }


@pytest.mark.parametrize("family", ["llama", "gpt2", "opt"])
@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_what_is_lost_is_the_sum_of_the_squares_that_were_cut(family: str, share: float) -> None:
    made = problem(family)
    given, metric = changes(made), whitenings(made)
    found = cut(given, metric, share)
    squares = {name: torch.linalg.svdvals(covariant(part, metric[name])).square() for name, part in given.items()}
    lost = {name: float(one[len(found.spans.get(name, ())) :].sum()) for name, one in squares.items()}
    for name, part in given.items():
        missing = part - found.changes.get(name, torch.zeros_like(part))
        assert metric_norm(missing, metric[name]) == pytest.approx(lost[name], rel=1e-6, abs=1e-9)
    whole = float(sum(one.sum() for one in squares.values()))
    assert whole == pytest.approx(sum(metric_norm(part, metric[name]) for name, part in given.items()), rel=1e-8)
    assert found.kept == pytest.approx(1 - sum(lost.values()) / whole, rel=1e-9) and found.kept >= share
    kept = torch.cat([one[: len(found.spans.get(name, ()))] for name, one in squares.items()])
    assert float(kept.sum() - kept.min()) < share * whole  # one value fewer would not do
    for name, span in found.spans.items():
        assert torch.allclose(span @ span.T, torch.eye(len(span)).double(), atol=1e-10)
        assert torch.allclose(found.changes[name] @ span.T @ span, found.changes[name], atol=1e-9)
        assert torch.linalg.matrix_rank(found.changes[name]) == len(span)


def test_a_cut_in_another_metric_loses_more() -> None:
    """The plain norm, and the factors of both sides exchanged where a layer is square."""
    made = problem()
    given, metric = changes(made), whitenings(made)
    plain = {name: Whitening(None, None, name) for name in given}
    square = {name: part for name, part in given.items() if part.shape[0] == part.shape[1]}
    turned = {name: Whitening(metric[name].inputs, metric[name].outputs, name) for name in square}
    for parts, other in ((given, plain), (square, turned)):
        right, wrong = (cut(parts, kind, 0.8) for kind in (metric, other))
        rank = {name: len(span) for name, span in wrong.spans.items()}
        for name in rank:
            best = torch.linalg.svdvals(covariant(parts[name], metric[name])).square()[rank[name] :].sum()
            lost = metric_norm(parts[name] - wrong.changes[name], metric[name])
            assert lost > 1.01 * float(best)
        assert right.kept >= 0.8


def test_all_of_it_is_the_change_and_nothing_is_nothing() -> None:
    made = problem("opt")
    given, metric = changes(made), whitenings(made)
    found = cut(given, metric, 1.0)
    assert all(torch.allclose(found.changes[name], part, atol=1e-8) for name, part in given.items())
    still = {name: torch.zeros_like(part) for name, part in given.items()}
    assert cut(still, metric, 0.99) == cut({}, metric, 0.99) == low_rank.Cut({}, {}, 1.0)


@pytest.mark.parametrize("wrong", ["", "not orthonormal", "another metric"])
def test_a_step_within_the_span_is_the_smallest_that_meets_the_needs(wrong: str) -> None:
    """Against dense least squares over the left factors alone: C restricted to D = B span is S (x) (span A span')."""
    made = problem()
    metric = whitenings(made)
    spans = cut(changes(made), metric, 0.6).spans
    if wrong == "not orthonormal":
        inner = {
            name: Whitening(metric[name].outputs, 2 * span @ span.T @ span, name, False) for name, span in spans.items()
        }
    elif wrong == "another metric":
        inner = {name: Whitening(metric[name].outputs, span, name, False) for name, span in spans.items()}
    else:
        inner = {name: within(metric[name], span, name) for name, span in spans.items()}
    split, layers = made.splits["forget"], linear_weights(made.model, made.movable)
    layers = {name: layers[name] for name in spans}
    ids = torch.tensor([t for w in split.windows for t, c in zip(w.ids, w.counted, strict=True) if c])

    def cotangent(logits: Tensor, places: Tensor) -> Tensor:
        return -margin_cotangent(logits, ids[places])

    pairs = row_pairs(made, split, layers, inner, cotangent)
    plain = {name: Whitening(None, None, name) for name in spans}
    free = row_pairs(made, split, layers, plain, cotangent)
    units = [torch.eye(len(split.rows)).double()[n] for n in range(len(split.rows))]
    rows = [free.combined(unit) for unit in units]  # each row's gradient of its margins
    jacobian = torch.stack(
        [torch.cat([(layers[n].matrix(row[n]) @ span.T).flatten() for n, span in spans.items()]) for row in rows]
    )
    blocks = []
    for name, span in spans.items():
        s, a = (torch.linalg.inv(w.T @ w) for w in metric[name][:2])
        blocks.append(torch.kron(s.contiguous(), (span @ a @ span.T).contiguous()))
    inverse = torch.linalg.inv(torch.block_diag(*blocks))
    deltas = torch.tensor([3.0, -1.0, 0.5, 2.0]).double()
    expected = inverse @ jacobian.T @ torch.linalg.solve(jacobian @ inverse @ jacobian.T, deltas)
    step = pairs.combined(solved(pairs.gram, deltas, 0.0).weights)
    found = torch.cat([(layers[name].matrix(step[name]) @ span.T).flatten() for name, span in spans.items()])
    agrees = torch.allclose(found, expected, atol=1e-7 * float(expected.abs().max()))
    assert agrees == (not wrong)
    for name, span in spans.items():  # and it leaves the span in no layer
        assert torch.allclose(layers[name].matrix(step[name]) @ span.T @ span, layers[name].matrix(step[name]))


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_weights_are_the_original_and_the_product(family: str) -> None:
    made = replace(problem(family), low_rank=0.9)
    metric, state = whitenings(made), State()
    low_rank.begin(made, state)
    layers = linear_weights(made.model, made.movable)
    moved = dict(list(changes(made).items())[1:])
    with torch.no_grad():
        for name, part in moved.items():
            made.movable[name].add_(layers[name].matrix(part))
    low_rank.narrow(made, state, metric)
    assert state.notes["low_rank"]["share"] >= 0.9
    assert state.notes["low_rank"]["total"] == sum(map(len, state.carried[SPAN].values()))
    low_rank.product(made, state)
    assert SPAN not in state.carried and state.carried[CHANGE].keys() <= moved.keys()
    for name, layer in layers.items():
        one = state.carried[CHANGE].get(name)
        change = layer.matrix(made.movable[name] - state.caches[ORIGINAL][name])
        expected = torch.zeros_like(change) if one is None else one["left"] @ one["right"]
        assert torch.allclose(change, expected, atol=1e-10)
