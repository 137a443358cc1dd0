"""Contract: what a metric is: a pure function of evidence (NumPy in, no torch)."""

from typing import ClassVar, Protocol

from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score


class Metric(Protocol):
    """A metric of the catalogue. `sets` names the sets it is defined on."""

    sets: ClassVar[tuple[str, ...]]

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        """The score of one model on the set `name`; None where that set has nothing to measure."""
        ...
