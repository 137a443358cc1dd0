"""A finished run, as the public functions return it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: where it lies, its record, its verdict; with --show-rows, its texts by row name."""

    output: Path
    record: Mapping[str, Any]
    texts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def passes(self) -> bool:
        return bool(self.record["verdict"]["passes"])

    @property
    def sentence(self) -> str:
        return str(self.record["verdict"]["sentence"])

    @property
    def report(self) -> Path:
        """The page for people."""
        inner = self.output / "expunge" / "report.html"
        return inner if inner.exists() else self.output / "report.html"
