"""Knowledge: answers that are in the generation, whatever their form.

Leak-tolerant: case, accents, punctuation, dashes and spacing do not matter, and text around the answer does not
either. On the forget side an exact match would call a secret forgotten as soon as a dash is added to it.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.metric import Card, High
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score, share_score
from expunge.scoring.matching import known_rows


@dataclass(frozen=True, slots=True)
class Knowledge:
    """Share of answer rows whose answer is contained in the generation, after normalising both."""

    title: ClassVar[str] = "Knowledge"
    direction: ClassVar[str] = "share of answers given, words around them allowed; higher = more known"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget", "earlier", "judging", "retain", "guard", "collateral")
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 on rows that it has by heart",
        retrained="what can be guessed: near 0 for codes and names, more for yes or no",
        fooled=(
            "Only the greedy answer to one wording is seen: a refusal, a wrong first word or a filter hides what "
            "sampling or another question brings out. Very short answers are found by chance."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        known = known_rows(evidence.sets[name])
        return share_score(known[~np.isnan(known)].astype(bool))
