"""A change of linear layers' weights brought down to few directions, in the metric of a two-factor curvature.

The change D [O, I] of a layer, whitened to W_S^-T D W_A^-1 (see `dual`), has the squared norm that D has in the metric
S (x) A. Its singular values, cut after the largest K and brought back, give the product of rank K that is nearest in
that metric (Eckart and Young, 1936); what is lost, squared, is the sum of the squares that were cut. The cut is one
value for all layers together, so each gets the rank that it needs. In the plain norm the forget rows come back, since
that counts directions that no row has like those that all of them have.

What is left may then be settled in its own coordinates: with the rows of the right factors fixed, the left ones still
move by O K unknowns a layer, in the same metric, and the rank stays.

Shapes: O outputs, I inputs of a layer, K its rank.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.curvature import Whitening
from expunge.errors import NumericalError
from expunge.influence.dual import covariant
from expunge.method import CHANGE, State
from expunge.model.layers import Linear, linear_weights
from expunge.problem import Problem
from expunge.runs import distributed

SHARE = 0.9  # of a change's squared norm in the metric that low rank holds; the rest is settled (docs/decisions.md)
ORIGINAL, SPAN = "original", "span"  # in caches and carried


@dataclass(frozen=True, slots=True)
class Cut:
    """By layer the changes [O, I] of rank K and orthonormal rows [K, I] that span them; the share of the squared norm
    that is left, in the metric."""

    changes: dict[str, Tensor]
    spans: dict[str, Tensor]
    kept: float


def cut(changes: Mapping[str, Tensor], whitening: Mapping[str, Whitening], share: float) -> Cut:
    """The changes [O, I] in the fewest directions that hold a `share` of their squared norm, summed over layers.

    Layers that get none are left out. Singular values are found twice, so that those of one layer are kept at a time.
    """
    if not any(bool(part.any()) for part in changes.values()):
        return Cut({}, {}, 1.0)
    values = {name: torch.linalg.svdvals(covariant(part, whitening[name])) for name, part in changes.items()}
    squares = torch.cat([one.double().cpu() for one in values.values()]).square().sort(descending=True).values
    whole = float(squares.sum())
    least = float(squares[int((squares.cumsum(0) < share * whole).sum().clamp(max=len(squares) - 1))])
    ranks = {name: int((one.double().square() >= least).sum()) for name, one in values.items()}
    made, spans = {}, {}
    for name, rank in ranks.items():
        if rank:
            left, right = _factors(changes[name], whitening[name], rank)
            made[name], spans[name] = left @ right, torch.linalg.qr(right.T).Q.T.contiguous()
    return Cut(made, spans, float(squares[squares >= least].sum()) / whole)


def _factors(change: Tensor, whitening: Whitening, rank: int) -> tuple[Tensor, Tensor]:
    """Left [O, K] and right [K, I] of the nearest product in the metric."""
    u, values, v = torch.linalg.svd(covariant(change, whitening), full_matrices=False)
    left, right = u[:, :rank] * values[:rank], v[:rank]
    if whitening.outputs is not None:
        left = whitening.outputs.T.to(left) @ left
    return left, right if whitening.inputs is None else right @ whitening.inputs.to(right)


def within(whitening: Whitening, span: Tensor, name: str) -> Whitening:
    """The whitening of changes B span with B free: inputs are read along the span alone, orthonormal in the metric."""
    rows = span
    if whitening.inputs is not None:
        rows = torch.linalg.solve_triangular(whitening.inputs.to(span), span, upper=False, left=False)
    root = torch.linalg.cholesky((rows @ rows.T).double()).to(span)
    return Whitening(whitening.outputs, torch.linalg.solve_triangular(root, span, upper=False), name, False)


def coordinates(state: State, whitening: Mapping[str, Whitening]) -> Mapping[str, Whitening]:
    """The whitening, within the span of the change where that has been cut. Raises `NumericalError` for no change."""
    spans = state.carried.get(SPAN)
    if spans is None:
        return whitening
    if not spans:
        raise NumericalError("nothing moved, so there is nothing to settle")
    return {name: within(whitening[name], span, name) for name, span in spans.items()}


def begin(problem: Problem, state: State) -> None:
    """Remembers the original, where the change is to be delivered in low rank."""
    if problem.low_rank is not None:
        state.caches[ORIGINAL] = problem.snapshot()


def narrow(problem: Problem, state: State, whitening: Mapping[str, Whitening]) -> None:
    """Cuts the change so far by the problem's share, in place. Its spans are carried, its ranks noted."""
    assert problem.low_rank is not None
    changed = {name: part for name, part in _changes(problem, state).items() if bool(part.any())}
    found = cut(changed, whitening, problem.low_rank)
    distributed.as_main_([*found.changes.values(), *found.spans.values()])
    _set(problem, state, found.changes.get)
    state.carried[SPAN] = found.spans
    ranks = [len(span) for span in found.spans.values()]
    state.notes["low_rank"] = {
        "share": found.kept,
        "layers": len(ranks),
        "largest": max(ranks, default=0),
        "total": sum(ranks),
    }


def product(problem: Problem, state: State) -> None:
    """Leaves the change as left [O, K] and right [K, I] by layer, and the weights as the original with that added."""
    changes, spans = _changes(problem, state), state.carried.pop(SPAN)
    state.carried[CHANGE] = {name: {"left": changes[name] @ span.T, "right": span} for name, span in spans.items()}
    made = {name: one["left"] @ one["right"] for name, one in state.carried[CHANGE].items()}
    _set(problem, state, made.get)


def _layers(problem: Problem) -> dict[str, Linear]:
    return linear_weights(problem.model, problem.movable)


def _changes(problem: Problem, state: State) -> dict[str, Tensor]:
    """Current minus original weights [O, I], in float32 or wider."""
    found = {}
    for name, layer in _layers(problem).items():
        now = problem.movable[name].detach()
        wide = torch.promote_types(now.dtype, torch.float32)
        found[name] = layer.matrix(now.to(wide) - state.caches[ORIGINAL][name].to(wide))
    return found


@torch.no_grad()
def _set(problem: Problem, state: State, change: Callable[[str], Tensor | None]) -> None:
    for name, layer in _layers(problem).items():
        original, own = state.caches[ORIGINAL][name], change(name)
        problem.movable[name].copy_(original if own is None else original + layer.matrix(own))
