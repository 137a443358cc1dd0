"""Mean loss per row, in nats per target token, teacher-forced."""

from dataclasses import dataclass
from typing import ClassVar

from expunge.metric import Card, High
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score, mean_score


@dataclass(frozen=True, slots=True)
class Loss:
    """Mean over rows of the row's mean loss; rows count equally, whatever their length."""

    title: ClassVar[str] = "Loss"
    direction: ClassVar[str] = "nats per token; higher = less known"
    high: ClassVar[High] = "unknown"
    sets: ClassVar[tuple[str, ...]] = ("forget", "earlier", "judging", "retain", "guard", "collateral", "samples")
    card: ClassVar[Card] = Card(
        most=None,
        original="near 0 on rows that it has by heart",
        retrained="as on rows that were never seen",
        fooled=(
            "It is a mean: a few rows far above hide others that are still known, so see the rows. A broken model "
            "has a high loss everywhere, and one that unlearned a single wording has it there only."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        rows = evidence.sets[name]
        return None if rows.no_losses else mean_score(rows.loss)
