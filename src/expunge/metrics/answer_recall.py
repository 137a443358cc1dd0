"""ROUGE-L recall of answers: how much of an answer is in the generation, in its order.

Of rows that have other answers beside theirs (TOFU): sentences, of which an exact match says little.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.metric import High
from expunge.scoring.answers import recalls
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score, mean_score


@dataclass(frozen=True, slots=True)
class AnswerRecall:
    """Mean over rows. Recall ignores length, so long generations gain some by chance."""

    title: ClassVar[str] = "ROUGE-L recall of answers"
    direction: ClassVar[str] = "share of the answer's words; higher = more recited"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget",)

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        rows = evidence.sets[name]
        found = recalls(rows)
        return None if rows.others is None else mean_score(found[~np.isnan(found)])
