"""Exact match of answers, as LUME scores knowledge: equal after strip and lower-case."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.metric import High
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score, share_score
from expunge.scoring.matching import equal


@dataclass(frozen=True, slots=True)
class Exact:
    """Share of answer rows whose generation equals the answer. An extra word or a missing full stop counts as wrong."""

    title: ClassVar[str] = "Exact match"
    direction: ClassVar[str] = "share of answers given word for word; higher = more known"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget", "earlier", "judging", "retain", "guard", "collateral")

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        rows = evidence.sets[name]
        pairs = [(rows.references[index], rows.generations[index]) for index in rows.of_kind("answer")]
        return share_score(np.array([equal(g, r) for r, g in pairs if r is not None and g is not None]))
