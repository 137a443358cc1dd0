"""Probability of an answer: exp of minus its loss per token, so that long answers are not less likely.

Of rows that have other answers beside theirs (TOFU); elsewhere Loss says the same.
"""

from dataclasses import dataclass
from typing import ClassVar

from expunge.metric import Card, High
from expunge.scoring.answers import probability
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score, mean_score


@dataclass(frozen=True, slots=True)
class Probability:
    """Mean over rows of the geometric mean of their tokens' probabilities."""

    title: ClassVar[str] = "Probability"
    direction: ClassVar[str] = "per token, 0 to 1; higher = more known"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget",)
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 on rows that it has by heart",
        retrained="as for answers that were never seen",
        fooled=(
            "The words of one answer only: the same fact in other words may stay likely. A broken model gets 0 "
            "for everything."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        rows = evidence.sets[name]
        return None if rows.others is None else mean_score(probability(rows.loss))
