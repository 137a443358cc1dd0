"""What a comparison comes to, for who called it."""

from dataclasses import dataclass
from pathlib import Path

from expunge.reporting.content import Content


@dataclass(frozen=True, slots=True)
class Comparison:
    """A finished comparison: where it lies and what it holds."""

    output: Path
    content: Content

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.output / "comparison.html"

    @property
    def failed(self) -> int:
        """Cells that hold an error."""
        return sum(cell.error is not None for cell in self.content.cells)
