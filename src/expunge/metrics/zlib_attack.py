"""zlib attack: telling forget rows from never-seen rows by their loss over the compressed size of their text.

Formula and source: `expunge.scoring.attacks.zlib`. Where a benchmark has tokens recorded (TOFU).
"""

from dataclasses import dataclass
from typing import ClassVar

from expunge.metric import Card, High
from expunge.scoring.attacks import attack, zlib
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score


@dataclass(frozen=True, slots=True)
class ZlibAttack:
    """AUC over pairs (forget row, judging row) of the same kind; the interval resamples both sides."""

    title: ClassVar[str] = "zlib attack"
    direction: ClassVar[str] = "AUC; 0.5 = the attack guesses, 1 = it recognises every row"
    high: ClassVar[High] = "known"
    sets: ClassVar[tuple[str, ...]] = ("forget",)
    card: ClassVar[Card] = Card(
        most=1.0,
        original="near 1 where the rows were memorised",
        retrained="about 0.5",
        fooled="As the loss attack. Very short texts compress badly, so their length enters the figure.",
    )

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        return attack(evidence.sets[name], evidence.sets.get("judging"), zlib)
