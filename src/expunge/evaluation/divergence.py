"""Retain KL as evidence: how far a model's next-token distributions are from the original's on rows to keep.

The original's are kept once, on a spread of the rows of each set (see `reference.cache`); every other model is then
measured against them, in the pass that takes its losses too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from expunge.data.batches import Batch
from expunge.data.splits import spread
from expunge.model.losses import kept_kl, nll, read_targets, target_ids
from expunge.problem import Problem, Split
from expunge.reference.cache import KeptDistributions, keep_distributions
from expunge.runs import distributed
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


@dataclass(frozen=True, slots=True)
class Read:
    """What one pass over the rows that are kept reads, window by window: KL from the original [windows], summed over
    targets, and the losses of the targets, in nats."""

    kl: Floats
    losses: list[Floats]


def original(kept: Kept) -> Read:
    """Of the original, as it was kept: no pass, and nothing between it and itself."""
    return Read(np.zeros(len(kept.split.windows)), [losses.numpy() for losses in kept.distributions.losses])


@torch.no_grad()
def read(problem: Problem, kept: Kept) -> Read:
    """Of the problem's current model."""
    found: dict[int, tuple[float, Floats]] = {}

    def both(logits: Tensor, labels: Tensor, log_probs: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return kept_kl(logits.log_softmax(dim=1), log_probs, ids), nll(logits, labels)

    def look(batch: Batch) -> None:
        values = read_targets(problem.model, batch, both, target_ids(batch), *kept.distributions.of(batch))
        sizes = batch.counted.sum(dim=1).tolist()
        parts = zip(*(one.double().cpu().split(sizes) for one in values), strict=True)
        for index, (kl, losses) in zip(batch.windows.tolist(), parts, strict=True):
            found[index] = float(kl.sum()), losses.numpy()

    with problem.runtime.autocast():
        problem.over(kept.split, look)
    ordered = [one for _, one in sorted(distributed.gathered(found).items())]
    return Read(np.array([kl for kl, _ in ordered]), [losses for _, losses in ordered])


def by_row(kept: Kept, found: Read, rows: int) -> Floats:
    """KL summed over each row's targets [rows], in nats; nan for rows that were not kept, inf for what is no number."""
    sums = np.full(rows, np.nan)
    sums[list(kept.places)] = 0.0
    for window, value in zip(kept.split.windows, found.kl.tolist(), strict=True):
        sums[kept.places[window.row]] += value if math.isfinite(value) else math.inf
    return sums


def row_divergences(problem: Problem, kept: Kept, rows: int) -> Floats:
    """KL(original, current) summed over each row's targets [rows], in nats; nan for rows that were not kept."""
    return by_row(kept, read(problem, kept), rows)
