"""From the content of a comparison (cells: model x seed) to where each model stands in each column.

What a column says: `content.Column`.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET

from expunge.reporting.content import Cell, Column, Content
from expunge.reporting.finding import known
from expunge.reporting.words import NOT_MEASURED
from expunge.scoring import band
from expunge.scoring.band import AS_RETRAINED, CANNOT_TELL, NOT_FINITE, Measured, Pooled, Standing

ORIGINAL, RETRAINED = "original", "retrained"
WAYS = {"higher": 1.0, "lower": -1.0}
THE_BAND, NO_BAND, NOT_JUDGED = "the band", "no band", "not judged"
UNJUDGED = (NOT_MEASURED, THE_BAND, NO_BAND, NOT_JUDGED)


@dataclass(frozen=True, slots=True)
class Model:
    """The cells of one model; `done` are those without an error."""

    label: str
    cells: tuple[Cell, ...]

    @property
    def done(self) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if not cell.error)

    @property
    def is_method(self) -> bool:
        return self.label not in (ORIGINAL, RETRAINED)


@dataclass(frozen=True, slots=True)
class Entry:
    """One model in one column. `missing` is the reason where nothing was measured; `word` is never empty.

    `band` is that of the retrained models; `standing` is None for those themselves and where there is nothing to judge.
    """

    word: str
    missing: str
    pooled: Pooled | None
    band: Pooled | None
    standing: Standing | None
    count: int | None


@dataclass(frozen=True, slots=True)
class Summary:
    """One model at a glance: columns by word, in their order."""

    columns: Mapping[str, tuple[Column, ...]]

    @property
    def outside(self) -> tuple[str, ...]:
        """The words that say so."""
        return tuple(word for word in self.columns if word not in (AS_RETRAINED, CANNOT_TELL, *UNJUDGED))

    @property
    def judged(self) -> int:
        return sum(len(columns) for word, columns in self.columns.items() if word not in UNJUDGED)

    @property
    def place(self) -> str:
        """*outside* where any column is, *in the band* where all are in it, else *cannot tell*."""
        if not self.judged:
            return "nothing to judge"
        if self.outside:
            return "outside the band"
        return CANNOT_TELL if self.columns.get(CANNOT_TELL) else "in the band"


@dataclass(frozen=True, slots=True)
class Standings:
    """All of a comparison: original and retrained first, then the methods in the order of their first cell."""

    columns: tuple[Column, ...]
    models: tuple[Model, ...]
    entries: Mapping[tuple[str, str], Entry]

    @property
    def methods(self) -> tuple[Model, ...]:
        return tuple(model for model in self.models if model.is_method)

    @property
    def twins(self) -> int:
        return sum(len(model.done) for model in self.models if model.label == RETRAINED)

    def group(self, *names: str) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.group in names)

    def summary(self, model: Model) -> Summary:
        found: dict[str, tuple[Column, ...]] = {}
        for column in self.columns:
            word = self.entries[model.label, column.key].word
            found[word] = (*found.get(word, ()), column)
        return Summary(found)


def of(content: Content) -> Standings:
    """Where each model stands in each column."""
    labels = dict.fromkeys([ORIGINAL, RETRAINED, *(cell.model for cell in content.cells)])
    models = tuple(Model(name, tuple(cell for cell in content.cells if cell.model == name)) for name in labels)
    models = tuple(model for model in models if model.cells)
    entries = {}
    for column in content.columns:
        for model, entry in _entries(column, models).items():
            entries[model, column.key] = entry
    return Standings(content.columns, models, entries)


def _entries(column: Column, models: Sequence[Model]) -> dict[str, Entry]:
    found = {model.label: _measured(model, column.key) for model in models}
    twins = found.get(RETRAINED)
    reference = band.band(twins, column.range) if twins else None
    if reference is not None and not math.isfinite(reference.value):
        reference = None
    better = _better(column, found.get(ORIGINAL), reference)
    return {model.label: _entry(column, model, found[model.label], twins or [], reference, better) for model in models}


def _entry(
    column: Column,
    model: Model,
    cells: Sequence[Measured],
    twins: Sequence[Measured],
    reference: Pooled | None,
    better: float,
) -> Entry:
    if not cells:
        return Entry(NOT_MEASURED, _reason(model, column.key), None, reference, None, None)
    pooled, count = band.pool(cells, column.range), _count(model, column.key)
    if model.label == RETRAINED:
        return Entry(THE_BAND if reference else NOT_FINITE, "", pooled, reference, None, count)
    if column.margin is None or reference is None:
        word = NOT_FINITE if not math.isfinite(pooled.value) else NO_BAND if reference is None else NOT_JUDGED
        return Entry(word, "", pooled, reference, None, count)
    standing = band.stand(band.difference(cells, twins, column.range), column.margin, reference, column.side, better)
    return Entry(standing.word, "", pooled, reference, standing, count)


def _measured(model: Model, key: str) -> list[Measured]:
    """A record writes null for a number that is not finite."""
    found = []
    for cell in model.done:
        score, rows = cell.scores.get(key), cell.rows.get(key)
        if score is None or score.missing is not UNSET:
            continue
        value = known(score.value)
        values = None if rows is None else np.array(rows, dtype=np.float64)
        found.append(Measured(math.nan if value is None else value, known(score.low), known(score.high), values))
    return found


def _better(column: Column, original: Sequence[Measured] | None, reference: Pooled | None) -> float:
    if column.better is not None:
        return WAYS[column.better]
    if column.side != "forget" or not original or reference is None or column.margin is None:
        return 0.0
    way = reference.value - band.pool(original).value
    return float(np.sign(way)) if math.isfinite(way) and abs(way) > column.margin else 0.0


def _reason(model: Model, key: str) -> str:
    if not model.done:
        return "every cell ended with an error"
    reasons = [cell.scores[key].missing for cell in model.done if key in cell.scores]
    return next((reason for reason in reasons if isinstance(reason, str)), "")


def _count(model: Model, key: str) -> int | None:
    """Rows behind the score; the fewest where seeds differ."""
    counts = [cell.scores[key].count for cell in model.done if key in cell.scores]
    return min((count for count in counts if isinstance(count, int)), default=None)
