"""Contract: what a metric is: a pure function of evidence (NumPy in, no torch), which says what its figure means."""

from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Score

High = Literal["known", "unknown", "moved"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What to know of a figure before trusting it, beside its title and direction; pages show it with the figure.

    `least`, `most`: the range, None where there is no end; an interval over all of it says nothing. `original`,
    `retrained`: what such a model gets. `fooled`: how a model looks right by it without being so.
    """

    least: float | None = 0.0
    most: float | None
    original: str
    retrained: str
    fooled: str


class Metric(Protocol):
    """A metric of the catalogue. Pages show it by what it says here; no other file knows its name.

    `title`: its name on pages. `direction`: its unit and what a higher value means. `high`: that meaning as one of
    three: the rows are better known, less known, or the model moved further from the original, which is neither good
    nor bad by itself. `sets`: the sets it is defined on. `card`: what else a reader must know.
    """

    title: ClassVar[str]
    direction: ClassVar[str]
    high: ClassVar[High]
    sets: ClassVar[tuple[str, ...]]
    card: ClassVar[Card]

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        """The score of one model on the set `name`; None where that set has nothing to measure."""
        ...
