"""Exact match of answers, as LUME scores knowledge: equal after strip and lower-case."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.metric import High
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score, share_score
from expunge.scoring.matching import exact_rows


@dataclass(frozen=True, slots=True)
class Exact:
    """Share of answer rows whose generation equals the answer. An extra word or a missing full stop counts as wrong."""

    title: ClassVar[str] = "Exact match"
    direction: ClassVar[str] = "share of answers given word for word; higher = more known"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget", "earlier", "judging", "retain", "guard", "collateral")

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        exact = exact_rows(evidence.sets[name])
        return share_score(exact[~np.isnan(exact)].astype(bool))
