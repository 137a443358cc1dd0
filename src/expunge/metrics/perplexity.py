"""Perplexity of the never-seen rows and of the model's own samples: exp of the mean loss over all their tokens."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.metric import Card, High
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import CONFIDENCE, Score, bootstrap, unknown


@dataclass(frozen=True, slots=True)
class Perplexity:
    """exp(sum of token losses / number of tokens); the interval resamples rows, not tokens."""

    title: ClassVar[str] = "Perplexity"
    direction: ClassVar[str] = "per token; higher = less fluent"
    high: ClassVar[High] = "unknown"
    sets: ClassVar[tuple[str, ...]] = ("judging", "samples")
    card: ClassVar[Card] = Card(
        least=1.0,
        most=None,
        original="the level to compare with",
        retrained="about as the original",
        fooled=(
            "Fluency, not facts: a model that lost what it knew and still writes well keeps it. It is dominated "
            "by long rows."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        rows = evidence.sets[name]
        if rows.no_losses or not len(rows.loss):
            return None
        sums = rows.loss * rows.targets
        if not np.isfinite([sums, rows.targets]).all():
            return unknown(len(sums)).score()
        weights = bootstrap(len(sums))
        ratios = np.exp((weights @ sums) / (weights @ rows.targets))
        low, high = np.quantile(ratios, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Score(float(np.exp(sums.sum() / rows.targets.sum())), float(low), float(high), len(sums))
