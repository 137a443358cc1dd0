"""Reference attack: telling forget rows from never-seen rows by their loss beside that under a retrained model.

Formula and source: `expunge.scoring.attacks.reference`. Where a retrained model was given; the first, of several.
"""

from dataclasses import dataclass
from typing import ClassVar

from expunge.metric import Card, High
from expunge.scoring.attacks import attack, reference
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score


@dataclass(frozen=True, slots=True)
class ReferenceAttack:
    """AUC over pairs (forget row, judging row) of the same kind; the interval resamples both sides."""

    title: ClassVar[str] = "Reference attack"
    direction: ClassVar[str] = "AUC; 0.5 = the attack guesses, 1 = it recognises every row"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget",)
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 where the rows were memorised",
        retrained="none: it is the reference",
        fooled=(
            "One retrained model: where another seed of it costs rows otherwise, that is taken for a trace. A model "
            "that is worse on all rows, or pushes the forget rows beyond the reference, falls below 0.5."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        return attack(evidence.sets[name], evidence.sets.get("judging"), reference)
