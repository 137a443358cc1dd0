"""Min-K%++: Min-K% with each log-probability set against the spread of the vocabulary at its place.

Formula and source: `expunge.scoring.attacks.min_k_plus_plus`; 40 % of the tokens. Where a benchmark has tokens
recorded (TOFU).
"""

from dataclasses import dataclass
from typing import ClassVar

from expunge.metric import Card, High
from expunge.scoring.attacks import attack, min_k_plus_plus
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score


@dataclass(frozen=True, slots=True)
class MinKPlusPlus:
    """AUC over pairs (forget row, judging row) of the same kind; the interval resamples both sides."""

    title: ClassVar[str] = "Min-K%++"
    direction: ClassVar[str] = "AUC; 0.5 = the attack guesses, 1 = it recognises every row"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget",)
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 where the rows were memorised",
        retrained="about 0.5",
        fooled=(
            "As Min-K%. A model whose distributions became flat or sharp everywhere moves it without any forgetting."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        return attack(evidence.sets[name], evidence.sets.get("judging"), min_k_plus_plus)
