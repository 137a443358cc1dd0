"""TPR at 1 % FPR: the share of forget rows that their loss gives away while hardly a never-seen row is accused.

Carlini et al., "Membership Inference Attacks From First Principles", 2112.03570: an attack that is sure of a few rows
is a fault that an average such as AUC hides. Formula and interval: `expunge.scoring.low_rates`.
"""

from dataclasses import dataclass
from typing import ClassVar

from expunge.metric import Card, High
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score
from expunge.scoring.low_rates import RATE, true_positives


@dataclass(frozen=True, slots=True)
class TprAtLowFpr:
    """Share of forget rows with a loss below that of 99 in 100 judging rows of their kind.

    The interval knows how few rows the threshold stands on: with fewer than 437 never-seen rows of a kind it cannot
    exclude 0, and where it reaches from 0 to 1 nothing can be told.
    """

    title: ClassVar[str] = "TPR at 1 % FPR"
    direction: ClassVar[str] = "share of rows recognised; 0.01 = the attack guesses, higher = more known"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget",)
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 where the rows were memorised",
        retrained="about 0.01",
        fooled=(
            "Few never-seen rows: the threshold is then their lowest loss, and the figure an accident; the interval "
            "says so. It sees rows that are known too well, not rows that are avoided, and only by their loss."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        members, others = evidence.sets[name], evidence.sets.get("judging")
        if others is None or members.no_losses or others.no_losses:
            return None
        kinds = sorted(set(members.kinds) & set(others.kinds))
        groups = [(members.loss[members.of_kind(kind)], others.loss[others.of_kind(kind)]) for kind in kinds]
        return true_positives(groups, RATE)
