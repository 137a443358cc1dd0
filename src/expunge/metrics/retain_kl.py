"""Retain KL: KL(original, current) on rows to keep, teacher-forced, the mean over their targets, in nats per token.

0 for the original. A retrained model is not at 0 either: two trainings never end with the same distributions. Where the
vocabulary is large the original's rarest tokens are one class, so the value is a lower bound (`model.losses.kept_kl`).
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.metric import Card, High
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import CONFIDENCE, Score, bootstrap, unknown


@dataclass(frozen=True, slots=True)
class RetainKl:
    """Sum of the rows' KL over their targets; the interval resamples rows. None where it was not recorded."""

    title: ClassVar[str] = "Retain KL"
    direction: ClassVar[str] = "nats per token from the original; 0 = as the original; higher = moved more"
    high: ClassVar[High] = "moved"
    sets: ClassVar[tuple[str, ...]] = ("retain", "guard", "collateral")
    card: ClassVar[Card] = Card(
        most=None,
        original="0 by definition",
        retrained="above 0: two trainings never end with the same distributions",
        fooled=(
            "It is measured on rows that were handed over; a method that held these in place may have moved all "
            "else, so see collateral and samples. A mean hides a few rows that broke."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        rows = evidence.sets[name]
        if rows.kl is None:
            return None
        known = ~np.isnan(rows.kl)
        if not known.any():
            return None
        sums, targets = rows.kl[known], rows.targets[known]
        if not np.isfinite([sums, targets]).all():
            return unknown(len(sums)).score()
        weights = bootstrap(len(sums))
        ratios = (weights @ sums) / (weights @ targets)
        low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Score(float(sums.sum() / targets.sum()), float(low), float(high), len(sums))
