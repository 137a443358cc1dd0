"""Exact memorisation: tokens of an answer that are the model's first choice, teacher-forced.

Formula and source: `expunge.scoring.attacks.exact_memorisation`. Where a benchmark has tokens recorded (TOFU).
"""

from dataclasses import dataclass
from typing import ClassVar

from expunge.metric import Card, High
from expunge.scoring.attacks import exact_memorisation
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score, mean_score


@dataclass(frozen=True, slots=True)
class ExactMemorisation:
    """Mean over rows of the share of their tokens; common words make some of it with a model that never saw the row."""

    title: ClassVar[str] = "Exact memorisation"
    direction: ClassVar[str] = "share of tokens foretold; higher = more known"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget", "judging")
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 on rows that it has by heart",
        retrained="well above 0: common words and grammar are foretold without having seen the row",
        fooled=(
            "Only the first choice counts: a model that puts every right token second gets 0, and says it when it "
            "is sampled."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        found = exact_memorisation(evidence.sets[name])
        return None if found is None else mean_score(found)
