"""Retain KL as evidence: how far a model's next-token distributions are from the original's on rows to keep.

The original's are kept once, on a spread of the rows of each set (see `reference.cache`); every other model is then
measured against them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from expunge.data.passes import Passes, measuring
from expunge.data.splits import spread
from expunge.problem import Problem, Split
from expunge.reference.cache import KeptDistributions, keep_distributions, window_divergences
from expunge.scoring.intervals import Floats

SETS = ("retain", "guard", "collateral")
MOST_ROWS = 256  # of a set, spread evenly: 2 kB a target


@dataclass(frozen=True, slots=True)
class Kept:
    """The original's distributions on some rows of a set: `places` in it, and those rows as a split."""

    places: tuple[int, ...]
    split: Split
    distributions: KeptDistributions


def keep(original: Problem, judged: Mapping[str, Split]) -> dict[str, Kept]:
    """Runs the original, the problem's current model, over a spread of each set of rows to keep."""
    found = {}
    for name in SETS:
        if name in judged and len(judged[name].rows):
            places = spread(len(judged[name].rows), MOST_ROWS)
            split = judged[name].of(places, name)
            found[name] = Kept(tuple(places), split, keep_distributions(original, split))
    return found


def cost(judged: Mapping[str, Split]) -> Passes:
    """A forward pass over the rows that are kept: once to keep them, and once for each other model."""
    chosen = [judged[name].of(spread(len(judged[name].rows), MOST_ROWS), name) for name in SETS if name in judged]
    return Passes(plain=[part for split in chosen for part in measuring(split.windows)])


def row_divergences(problem: Problem, kept: Kept, rows: int) -> Floats:
    """KL(original, current) summed over each row's targets [rows], in nats; nan for rows that were not kept."""
    sums = np.full(rows, np.nan)
    sums[list(kept.places)] = 0.0
    found = window_divergences(problem, kept.split, kept.distributions)
    for window, value in zip(kept.split.windows, found.kl.tolist(), strict=True):
        sums[kept.places[window.row]] += value
    return sums
