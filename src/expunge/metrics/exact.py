"""Exact match of answers, as LUME scores knowledge: equal after strip and lower-case."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.metric import Card, High
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
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 on rows that it has by heart",
        retrained="near 0 for codes and names, more where an answer can be guessed",
        fooled=(
            "One extra word or a missing full stop makes an answer wrong, so a model that only answers in another "
            "form looks as if it had forgotten. Only the greedy answer to one wording is seen."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        exact = exact_rows(evidence.sets[name])
        return share_score(exact[~np.isnan(exact)].astype(bool))
