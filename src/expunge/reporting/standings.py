"""From the content of a comparison (cells: model x seed) to where each model stands in each column.

A column names its side, margin and group; nothing here knows a metric by name. `better` ("higher" or "lower") says
which way is more forgotten (side "forget") or better kept (side "retain"). Without it, the forget side takes the way
from the original to the retrained models, where they differ by more than the margin. `range` ([least, most], optional)
says where the scale of a score ends.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from expunge.errors import InputError
from expunge.reporting.words import NOT_MEASURED
from expunge.scoring import band
from expunge.scoring.band import AS_RETRAINED, CANNOT_TELL, NOT_FINITE, Measured, Pooled, Side, Standing

Content = Mapping[str, Any]
SCHEMA = 1
KIND = "comparison"
NEEDED = ("created", "benchmark", "machine", "versions", "config", "counts", "cells", "columns")
CELL_NEEDED = (
    *("model", "seed", "settings", "error", "seconds", "unlearn_seconds", "peak_memory_bytes", "steps", "tokens"),
    *("verdict", "flags", "scores", "rows", "proposals", "sophia", "attacks"),
)
SIDES = ("forget", "retain", "other")
ORIGINAL, RETRAINED = "original", "retrained"
WAYS = {"higher": 1.0, "lower": -1.0}
THE_BAND, NO_BAND, NOT_JUDGED = "the band", "no band", "not judged"
UNJUDGED = (NOT_MEASURED, THE_BAND, NO_BAND, NOT_JUDGED)


@dataclass(frozen=True, slots=True)
class Column:
    """One score. `margin`: how far from the twins' own spread is still as good as they; None: shown, not judged."""

    key: str
    label: str
    side: Side
    margin: float | None
    group: str
    better: str | None
    scale: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class Model:
    """The cells of one model; `done` are those without an error."""

    label: str
    cells: tuple[Mapping[str, Any], ...]

    @property
    def done(self) -> tuple[Mapping[str, Any], ...]:
        return tuple(cell for cell in self.cells if not cell["error"])

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
    """Raises `InputError` where the content cannot be shown."""
    check(content)
    columns = tuple(_column(found) for found in content["columns"])
    labels = dict.fromkeys([ORIGINAL, RETRAINED, *(cell["model"] for cell in content["cells"])])
    models = tuple(Model(name, tuple(c for c in content["cells"] if c["model"] == name)) for name in labels)
    models = tuple(model for model in models if model.cells)
    entries = {}
    for column in columns:
        for model, entry in _entries(column, models).items():
            entries[model, column.key] = entry
    return Standings(columns, models, entries)


def _column(found: Mapping[str, Any]) -> Column:
    return Column(
        key=found["key"],
        label=found.get("label") or found["key"],
        side=cast(Side, found["side"]),
        margin=found["margin"],
        group=found["group"],
        better=found["better"],
        scale=(found["range"][0], found["range"][1]) if found.get("range") else None,
    )


def check(content: Content) -> None:
    """Refuses content that the pages cannot show, before any page is written."""
    if content.get("schema") != SCHEMA or content.get("kind") != KIND:
        found = f"{content.get('kind')!r} of schema {content.get('schema')!r}"
        raise InputError(
            f"This version shows comparisons of schema {SCHEMA}; this is {found}. "
            "Show it with the version of expunge that wrote it: see 'versions' in comparison.json."
        )
    if missing := [key for key in NEEDED if key not in content]:
        raise InputError(f"The comparison lacks {', '.join(missing)}. Was comparison.json cut off or edited?")
    for place, cell in enumerate(content["cells"], start=1):
        if missing := [key for key in CELL_NEEDED if key not in cell]:
            raise InputError(f"Cell {place} of the comparison lacks {', '.join(missing)}. Run its cell again.")
    for column in content["columns"]:
        if missing := [key for key in ("key", "side", "margin", "group", "better") if key not in column]:
            raise InputError(f"Column {column.get('key')!r} of the comparison lacks {', '.join(missing)}.")
        if column["side"] not in SIDES or column["better"] not in (*WAYS, None):
            raise InputError(
                f"Column {column['key']!r}: side is one of {', '.join(SIDES)}, better is 'higher', 'lower' or null."
            )


def _entries(column: Column, models: Sequence[Model]) -> dict[str, Entry]:
    found = {model.label: _measured(model, column.key) for model in models}
    twins = found.get(RETRAINED)
    reference = band.band(twins, column.scale) if twins else None
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
    pooled, count = band.pool(cells, column.scale), _count(model, column.key)
    if model.label == RETRAINED:
        return Entry(THE_BAND if reference else NOT_FINITE, "", pooled, reference, None, count)
    if column.margin is None or reference is None:
        word = NOT_FINITE if not math.isfinite(pooled.value) else NO_BAND if reference is None else NOT_JUDGED
        return Entry(word, "", pooled, reference, None, count)
    standing = band.stand(band.difference(cells, twins, column.scale), column.margin, reference, column.side, better)
    return Entry(standing.word, "", pooled, reference, standing, count)


def _measured(model: Model, key: str) -> list[Measured]:
    found = []
    for cell in model.done:
        score = cell["scores"].get(key)
        if score is None or "missing" in score:
            continue
        rows = cell["rows"].get(key)
        values = None if rows is None else np.array([math.nan if r is None else r for r in rows], dtype=np.float64)
        found.append(Measured(_number(score.get("value")), score.get("low"), score.get("high"), values))
    return found


def _number(value: float | None) -> float:
    """A record writes null for a number that is not finite."""
    return math.nan if value is None else float(value)


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
    reasons = [cell["scores"][key].get("missing") for cell in model.done if key in cell["scores"]]
    return next((str(reason) for reason in reasons if reason), "")


def _count(model: Model, key: str) -> int | None:
    """Rows behind the score; the fewest where seeds differ."""
    scores = [cell["scores"].get(key) or {} for cell in model.done]
    counts = [score["count"] for score in scores if score.get("count") is not None]
    return min(counts) if counts else None
