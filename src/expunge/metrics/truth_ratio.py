"""Truth ratio: how much likelier than wrong answers the true one is, in other words than those that were trained on.

P(true) / (P(true) + P(wrong)), the definition of open-unlearning since its #163; the others stand among the official
scores of benchmark `tofu`. Formulas: `expunge.scoring.answers`.
"""

from dataclasses import dataclass
from typing import ClassVar

from expunge.metric import Card, High
from expunge.scoring.answers import answers_of, geometric, true_share
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score, mean_score


@dataclass(frozen=True, slots=True)
class TruthRatio:
    """Mean over rows that have wrong answers; 0.5: the model cannot tell."""

    title: ClassVar[str] = "Truth ratio"
    direction: ClassVar[str] = "share of the true answer; 0.5 = cannot tell, higher = more known"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget",)
    card: ClassVar[Card] = Card(
        most=1.0,
        original="above a retrained model where the fact was learned, in whatever words",
        retrained="about 0.5, and above where true answers are likelier by themselves",
        fooled=(
            "A ratio: raising the wrong answers looks like forgetting the true one, and lowering all of them by "
            "as much looks like nothing. Models rarely differ much in it."
        ),
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        answers = answers_of(evidence.sets[name])
        return mean_score(true_share(geometric(answers))[answers.compared])
