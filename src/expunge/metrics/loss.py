"""Mean loss per row, in nats per target token, teacher-forced."""

from dataclasses import dataclass
from typing import ClassVar

from expunge.metric import High
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score, mean_score


@dataclass(frozen=True, slots=True)
class Loss:
    """Mean over rows of the row's mean loss; rows count equally, whatever their length."""

    title: ClassVar[str] = "Loss"
    direction: ClassVar[str] = "nats per token; higher = less known"
    high: ClassVar[High] = "unknown"
    sets: ClassVar[tuple[str, ...]] = ("forget", "earlier", "judging", "retain", "guard", "collateral", "samples")

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        return mean_score(evidence.sets[name].loss)
