"""A finished run, as the public functions return it: its record, and what is asked of it most."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from expunge.reporting.finding import Row, Score, Verdict
from expunge.reporting.record import Record, Texts

__all__ = ["Cost", "Record", "Row", "Run", "Score", "Verdict"]


@dataclass(frozen=True, slots=True)
class Cost:
    """`row_passes`: one row forward and backward, of the unlearning alone (None: nothing was unlearned); seconds by
    stage; peak memory in bytes."""

    row_passes: float | None
    seconds: Mapping[str, float]
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: where it lies, its record and the parts of that; with --show-rows, its texts by row name."""

    output: Path
    record: Record
    texts: Texts = field(default_factory=dict, repr=False)

    @property
    def verdict(self) -> Verdict:
        return self.record.verdict

    @property
    def scores(self) -> tuple[Score, ...]:
        return self.record.scores

    @property
    def rows(self) -> tuple[Row, ...]:
        return self.record.rows

    @property
    def cost(self) -> Cost:
        spent = self.record.method.row_passes if self.record.method else None
        return Cost(spent, self.record.seconds, self.record.peak_memory_bytes)

    @property
    def passes(self) -> bool:
        return self.verdict.passes

    @property
    def sentence(self) -> str:
        return self.verdict.sentence

    @property
    def report(self) -> Path:
        """The page for people."""
        inner = self.output / "expunge" / "report.html"
        return inner if inner.exists() else self.output / "report.html"
