"""Contract: what a metric is: a pure function of evidence (NumPy in, no torch), which says what its figure means."""

from typing import ClassVar, Literal, Protocol

from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score

High = Literal["known", "unknown", "moved"]


class Metric(Protocol):
    """A metric of the catalogue. Pages show it by what it says here; no other file knows its name.

    `title`: its name on pages. `direction`: its unit and what a higher value means. `high`: that meaning as one of
    three: the rows are better known, less known, or the model moved further from the original, which is neither good
    nor bad by itself. `sets`: the sets it is defined on.
    """

    title: ClassVar[str]
    direction: ClassVar[str]
    high: ClassVar[High]
    sets: ClassVar[tuple[str, ...]]

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        """The score of one model on the set `name`; None where that set has nothing to measure."""
        ...
