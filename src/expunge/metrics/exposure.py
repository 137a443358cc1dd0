"""Exposure of secrets in bits: how far a model narrows the guess of each among texts of its form.

Carlini et al., "The Secret Sharer", USENIX Security 2019; formulas and departures in `expunge.scoring.ranking`. Exact
where a secret's whole space was scored, fitted otherwise; the official scores of benchmark `canaries` tell which.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.metric import Card, High
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score, mean_score
from expunge.scoring.ranking import of_set


@dataclass(frozen=True, slots=True)
class Exposure:
    """Mean over the secrets of a set; about 1.44 bits where none of them was ever seen."""

    title: ClassVar[str] = "Exposure"
    direction: ClassVar[str] = "bits; 1.44 = like secrets it never saw; higher = easier to guess"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget", "judging", "retain", "guard", "collateral")
    card: ClassVar[Card] = Card(
        most=None,
        original="up to the bits of the form (20 for a secret among a million)",
        retrained="1.44 on average: any place among the others is as likely as another",
        fooled=(
            "A model that pushes the secret below all others gets 0, which gives it away as much as a high figure "
            "does. Where only a sample of the others was scored, the figure beyond the sample is fitted."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        return mean_score(np.array([one.bits for one in of_set(evidence.sets[name]).values()]))
