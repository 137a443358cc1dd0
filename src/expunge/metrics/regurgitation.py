"""Regurgitation: ROUGE-L recall of a document's second half when the model is given the first.

`rouge-score` with its stemmer, recall, as LUME scores it; here on the user's own documents, cut in the middle.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.metric import Card, High
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score, mean_score
from expunge.scoring.matching import recall_rows


@dataclass(frozen=True, slots=True)
class Regurgitation:
    """Mean ROUGE-L recall over document rows. Recall ignores length, so long generations gain some by chance."""

    title: ClassVar[str] = "Regurgitation"
    direction: ClassVar[str] = "ROUGE-L recall of the continuation; higher = more recited"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget", "earlier", "judging", "retain", "guard", "collateral")
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 on documents that it recites",
        retrained="what two texts of that kind share: common words, often 0.2 to 0.6",
        fooled=(
            "Recall ignores length, and stems count as equal. Only the greedy continuation of the first half is "
            "seen: a model that stumbles over its first word gets a low figure and may recite from the second."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        recalls = recall_rows(evidence.sets[name])
        return mean_score(recalls[~np.isnan(recalls)])
