"""Extraction strength: how little of an answer must be given for the model to go on with the rest of it.

Formula, source and departure: `expunge.scoring.attacks.extraction_strength`. Where a benchmark has tokens recorded
(TOFU).
"""

from dataclasses import dataclass
from typing import ClassVar

from expunge.metric import Card, High
from expunge.scoring.attacks import extraction_strength
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score, mean_score


@dataclass(frozen=True, slots=True)
class ExtractionStrength:
    """Mean over rows; 1: the prompt is enough, 0: even the last token is wrong."""

    title: ClassVar[str] = "Extraction strength"
    direction: ClassVar[str] = "share of an answer that follows from the rest; higher = more recited"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget", "judging")
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 on rows that it has by heart",
        retrained="near 0; above where an answer's last words are common ones",
        fooled=(
            "One token wrong near the end brings it to almost 0, although everything before is recited. Greedy "
            "choices only."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        found = extraction_strength(evidence.sets[name])
        return None if found is None else mean_score(found)
