"""Min-K%: telling forget rows from never-seen rows by their least likely tokens.

Formula and source: `expunge.scoring.attacks.min_k`; 40 % of the tokens. Where a benchmark has tokens recorded (TOFU).
"""

from dataclasses import dataclass
from typing import ClassVar

from expunge.metric import Card, High
from expunge.scoring.attacks import attack, min_k
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score


@dataclass(frozen=True, slots=True)
class MinK:
    """AUC over pairs (forget row, judging row) of the same kind; the interval resamples both sides."""

    title: ClassVar[str] = "Min-K%"
    direction: ClassVar[str] = "AUC; 0.5 = the attack guesses, 1 = it recognises every row"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget",)
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 where the rows were memorised",
        retrained="about 0.5",
        fooled=(
            "As the loss attack: an average, which two-sided faults bring to 0.5. It looks at the rarest tokens "
            "alone, so an update that raises the loss of these and leaves the rest recited looks right."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        return attack(evidence.sets[name], evidence.sets.get("judging"), min_k)
