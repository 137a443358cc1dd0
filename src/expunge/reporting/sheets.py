"""The comparison as CSV: one line per model and column with every number, and one line per cell."""

import csv
import io
import math
from collections.abc import Iterable, Sequence

from expunge.reporting.finding import Official, known
from expunge.reporting.standings import Entry, Model, Standings

OF_COLUMNS = (
    *("model", "column", "label", "group", "side", "value", "low", "high", "least", "most", "seeds", "n"),
    *("band", "band_low", "band_high", "band_least", "band_most", "margin", "tolerance"),
    *("difference", "difference_low", "difference_high", "paired", "word", "leaning", "missing"),
)
OF_CELLS = (
    *("model", "seed", "settings", "error", "seconds", "unlearn_seconds", "peak_memory_bytes", "steps", "tokens"),
    *("forget", "rest", "flags"),
)
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")


def columns(found: Standings) -> str:
    """One line per model and column. Numbers in full; empty where there is none."""
    lines = [
        [model.label, column.key, column.label, column.group, column.side, *_numbers(entry, column.margin)]
        for model in found.models
        for column in found.columns
        for entry in [found.entries[model.label, column.key]]
    ]
    return _written(OF_COLUMNS, lines)


def cells(found: Standings) -> str:
    """One line per cell, with the value of every column."""
    keys = [column.key for column in found.columns]
    lines = [_cell(model, place, keys) for model in found.models for place in range(len(model.cells))]
    return _written((*OF_CELLS, *keys), lines)


def _numbers(entry: Entry, margin: float | None) -> list[object]:
    pooled, band, standing = entry.pooled, entry.band, entry.standing
    own = (pooled.value, pooled.low, pooled.high, pooled.least, pooled.most, pooled.seeds) if pooled else (None,) * 6
    theirs = (band.value, band.low, band.high, band.least, band.most) if band else (None,) * 5
    away: tuple[object, ...] = (None,) * 5
    if standing is not None:
        found = standing.difference
        away = (standing.tolerance, found.value, found.low, found.high, "yes" if found.paired else "no")
    leaning = standing.leaning if standing else ""
    return [*own, entry.count, *theirs, margin, *away, entry.word, leaning, entry.missing]


def _cell(model: Model, place: int, keys: Sequence[str]) -> list[object]:
    cell = model.cells[place]
    said = [*([cell.verdict.forget, cell.verdict.rest] if cell.verdict else (None, None)), "; ".join(cell.flags)]
    scores = [known(cell.scores.get(key, Official()).value) for key in keys]
    return [*(getattr(cell, name) for name in OF_CELLS[: -len(said)]), *said, *scores]


def _written(headers: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([headers, *([_plain(value) for value in line] for line in lines)])
    return text.getvalue()


def _plain(value: object) -> str:
    """Numbers to seven digits. Text that a spreadsheet would run as a formula gets an apostrophe."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.7g}" if math.isfinite(value) else ""
    text = str(value)
    return f"'{text}" if not isinstance(value, int) and text.startswith(FORMULA_STARTS) else text
