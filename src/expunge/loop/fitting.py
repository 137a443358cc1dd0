"""Fits the curvature that a method would fit, for requests to come."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from expunge.config.commands import Curvature
from expunge.influence import directions, drift
from expunge.influence.directions import Fit
from expunge.intake.assembly import Assembled
from expunge.loop.batch_tokens import begin
from expunge.loop.moving import Moving, choose
from expunge.method import TwoFactors
from expunge.model.layers import Linear, linear_weights
from expunge.problem import Problem, Split, divided


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fit, the rows that it was made of, what could move and its linear layers, and the diagonals of the factors of
    its first rows alone, by which a child of the model is told from it."""

    fit: Fit
    rows: Split
    moving: Moving
    layers: dict[str, Linear]
    first: Split
    diagonals: dict[str, Tensor]


def fitted(config: Curvature, factors: TwoFactors, assembled: Assembled, say: Callable[[str], None]) -> Fitted:
    """At the original. The subspace is the one that a run with the same configuration takes. Raises `InputError`."""
    problem, needs = assembled.problem, config.options.needs
    torch.manual_seed(config.seed)  # the first factors of a LoRA are drawn by it
    chosen = choose(problem, needs, config.subspace, None, say)
    subspace = chosen.subspace
    problem = replace(problem, model=subspace.model, adapter=subspace.adapter, movable=subspace.movable)
    begin(problem, subspace.name, config, say)
    problem = divided(problem, needs.parts)
    rows = factors.rows(problem)
    first = few(rows)
    alone = drift.diagonals(factors_on(problem, first, factors))
    fit = directions.fit_on(problem, rows, factors, per_layer=True)
    return Fitted(fit, rows, chosen, linear_weights(problem.model, problem.movable), first, alone)


def few(rows: Split) -> Split:
    """The first rows of those that a curvature is fitted on."""
    return rows.of(range(min(drift.ROWS, len(rows))), "drift")


def factors_on(problem: Problem, rows: Split, wanted: TwoFactors) -> dict[str, Tensor]:
    """Those of a curvature that is fitted at the current weights on a few rows."""
    return directions.curvature_of(wanted.curvature, wanted.curvature_options).init(problem, rows).tensors
