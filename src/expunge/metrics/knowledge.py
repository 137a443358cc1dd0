"""Knowledge: answers that are in the generation, whatever their form.

Leak-tolerant: case, accents, punctuation, dashes and spacing do not matter, and text around the answer does not
either. On the forget side an exact match would call a secret forgotten as soon as a dash is added to it.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.metric import High
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

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        known = known_rows(evidence.sets[name])
        return share_score(known[~np.isnan(known)].astype(bool))
