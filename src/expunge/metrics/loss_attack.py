"""Loss attack: the area under the ROC curve of telling forget rows from never-seen rows by their loss.

The plain membership attack of LUME (score = -loss, members = forget rows). 0.5: not to be told apart; near 1: the
forget rows still look familiar; near 0: they stand out by being too strange. Pairs are formed within a kind of row
only, since documents and answers differ in loss for reasons that have nothing to do with membership.
"""

from dataclasses import dataclass
from typing import ClassVar

from expunge.metric import Card, High
from expunge.scoring.attacks import attack, loss
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score


@dataclass(frozen=True, slots=True)
class LossAttack:
    """AUC over pairs (forget row, judging row) of the same kind; the interval resamples both sides."""

    title: ClassVar[str] = "Loss attack"
    direction: ClassVar[str] = "AUC; 0.5 = the attack guesses, 1 = it recognises every row"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget",)
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 where the rows were memorised",
        retrained="about 0.5",
        fooled=(
            "An average over all pairs: some rows recognised and others too strange give 0.5 together, so see TPR "
            "at 1 % FPR. Never-seen rows of another kind or length shift it by themselves. Below 0.5 the rows "
            "stand out by being avoided."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        return attack(evidence.sets[name], evidence.sets.get("judging"), loss)
