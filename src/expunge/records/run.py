"""A finished run, as the public functions return it: typed views of its record."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Verdict:
    """`passes`: the rows are forgotten and the rest is kept. `forget` and `rest` in a word each, with their reasons;
    `counts`: forget rows by verdict."""

    passes: bool
    sentence: str
    forget: str
    rest: str
    reasons: tuple[str, ...]
    counts: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Score:
    """A metric on a set of rows (forget, retain, ...) of a model (original, unlearned, retrained), with its interval of
    95 % and how many it is a mean of. None: not finite."""

    metric: str
    set: str
    model: str
    value: float | None
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Row:
    """A forget row. `name`: file and line; `id`: keyed hash; `loss`: nats per token by model; `rank`: of its loss among
    those of never-seen rows, 0 (the best known) to 1; `target`: the loss that it was to end at."""

    name: str
    id: str
    verdict: str
    reason: str
    loss: Mapping[str, float | None]
    target: float | None
    rank: float | None


@dataclass(frozen=True, slots=True)
class Cost:
    """`row_passes`: one row forward and backward, of the unlearning alone (None: nothing was unlearned); seconds by
    stage; peak memory in bytes."""

    row_passes: float | None
    seconds: Mapping[str, float]
    peak_memory_bytes: int | None


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run: where it lies, its record and typed views of that; with --show-rows, its texts by row name."""

    output: Path
    record: Mapping[str, Any]
    texts: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def verdict(self) -> Verdict:
        judged = self.record["verdict"]
        reasons = (*judged["forget_reasons"], *judged["rest_reasons"])
        told = {name: judged[name] for name in ("passes", "sentence", "forget", "rest", "counts")}
        return Verdict(**told, reasons=reasons)

    @property
    def scores(self) -> tuple[Score, ...]:
        return tuple(Score(**one) for one in self.record["scores"])

    @property
    def rows(self) -> tuple[Row, ...]:
        names = Row.__dataclass_fields__
        return tuple(Row(**{name: row[name] for name in names}) for row in self.record["rows"])

    @property
    def cost(self) -> Cost:
        method = self.record["method"]
        spent = None if method is None else method["row_passes"]
        return Cost(spent, self.record["seconds"], self.record["peak_memory_bytes"])

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
