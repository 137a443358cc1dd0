"""ROUGE-L recall of answers: how much of an answer is in the generation, in its order.

Of rows that have other answers beside theirs (TOFU): sentences, of which an exact match says little.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from expunge.metric import Card, High
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
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 on rows that it recites",
        retrained="what a guess shares with the answer: common words, and the words of the question",
        fooled=(
            "Recall ignores length, so a rambling answer gains words by chance; an answer in other words, or a "
            "refusal, loses them while the fact may still be known."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        rows = evidence.sets[name]
        found = recalls(rows)
        return None if rows.others is None else mean_score(found[~np.isnan(found)])
