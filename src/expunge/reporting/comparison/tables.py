"""The tables of a comparison as plain strings, *not* escaped: each page escapes what it prints."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge import band
from expunge.band import AS_RETRAINED, CANNOT_TELL, DIFFERS, NOT_FINITE
from expunge.reporting.comparison.standings import NO_BAND, ORIGINAL, RETRAINED, Column, Entry, Model, Standings
from expunge.reporting.provenance import Table, pairs
from expunge.reporting.words import NOT_MEASURED, Badge, duration, number, plain, size

TONES = {
    AS_RETRAINED: "good",
    "short": "bad",
    "beyond": "over",
    "lost": "bad",
    "gained": "warn",
    DIFFERS: "warn",
    NOT_FINITE: "bad",
}
PLACE_TONES = {"in the band": "good", "outside the band": "bad"}
MEANINGS = {
    AS_RETRAINED: "the whole interval of the difference to the retrained models lies within the margin",
    "short": "forget rows are still better known than by the retrained models",
    "beyond": "over-forgetting: forget rows are less known than by models that never saw them, also a fault",
    "lost": "rows to keep are less well kept than by the retrained models",
    "gained": "rows to keep are better known than by the retrained models",
    DIFFERS: "outside the margin, in a score that has no better side",
    CANNOT_TELL: "the interval of the difference reaches from within the margin to outside it; where it leaves out "
    "zero, the page says which way it leans",
}
HONEST = "the honest optimum"
POOLED_LEAD = "Mean over seeds. The retrained models never saw the forget rows: their line is the band to be in."
TERMS_LEAD = "The retrained models stand first; where they are is the best that unlearning can reach."
OFFICIAL_LEAD = (
    "The parts stay apart, since their mean hides a collapse. What the retrained models get is the honest optimum: a "
    "higher score is not better unlearning. A part that was not measured is missing, never 0."
)
OTHER_LEAD = "What stands in no table above."


@dataclass(frozen=True, slots=True)
class Cell:
    """One model in one column; parts that do not apply are empty. `note`: why nothing was measured."""

    value: str
    interval: str = ""
    difference: str = ""
    word: str = ""
    tone: str = "unknown"
    note: str = ""


@dataclass(frozen=True, slots=True)
class GridLine:
    """A line of a grid; `detail` stands below its name."""

    name: str
    detail: str
    cells: tuple[Cell, ...]
    is_band: bool


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of cells. `band_column`: the index of the column that shows the retrained band, where one does."""

    corner: str
    headers: tuple[str, ...]
    lines: tuple[GridLine, ...]
    band_column: int | None = None


@dataclass(frozen=True, slots=True)
class Section:
    """A grid with its heading; title and lead are fixed words."""

    title: str
    lead: str
    grid: Grid
    differences: bool


@dataclass(frozen=True, slots=True)
class Finding:
    """What the page says first about a method."""

    method: str
    badge: Badge
    parts: tuple[str, ...]


def headline(found: Standings) -> str:
    """One sentence: how many methods lie in the band, outside it, or cannot be told."""
    places = [found.summary(model).place for model in found.methods]
    if not found.twins:
        return f"No retrained model was scored, so none of {_many(len(places), 'method')} can be placed."
    counts = [(place, places.count(place)) for place in dict.fromkeys([*PLACE_TONES, CANNOT_TELL, *places])]
    words = {
        "in the band": "in the retrained band in every column",
        "outside the band": "outside it in at least one",
        CANNOT_TELL: "cannot be told",
    }
    parts = [f"{count} {words.get(place, place)}" for place, count in counts if count or place == "in the band"]
    return f"Of {_many(len(places), 'method')}: {', '.join(parts)}."


def findings(found: Standings) -> tuple[Finding, ...]:
    """One per method, in the order of the table."""
    lines = []
    for model in found.methods:
        summary = found.summary(model)
        parts = [f"{word}: {', '.join(labels)}" for word, labels in summary.outside.items()]
        if open_ones := summary.columns.get(CANNOT_TELL):
            parts.append(f"{CANNOT_TELL}: {', '.join(open_ones)}")
        if summary.judged:
            same = len(summary.columns.get(AS_RETRAINED, ()))
            parts.append(f"{AS_RETRAINED} in {same} of {_many(summary.judged, 'column')}")
        if failed := len(model.cells) - len(model.done):
            parts.append(f"{_many(failed, 'cell')} of {len(model.cells)} ended with an error")
        lines.append(Finding(model.label, place_badge(summary.place), tuple(parts)))
    return tuple(lines)


def sections(found: Standings) -> tuple[Section, ...]:
    """The grids in reading order, without those that have no columns."""
    pooled, terms, official = (found.group(name) for name in ("pooled", "term", "official"))
    others = tuple(column for column in found.columns if column not in (*pooled, *terms, *official))
    made = (
        Section("Pooled scores", POOLED_LEAD, by_model(found, pooled), True),
        Section("Every term beside the band", TERMS_LEAD, by_column(found, terms), False),
        Section("Parts of the official score", OFFICIAL_LEAD, by_model(found, official, honest=True), True),
        Section("Other scores", OTHER_LEAD, by_column(found, others), False),
    )
    return tuple(section for section in made if section.grid.lines and section.grid.headers)


def place_badge(place: str) -> Badge:
    return Badge(place, PLACE_TONES.get(place, "unknown"))


def by_model(found: Standings, columns: Sequence[Column], honest: bool = False) -> Grid:
    """A line per model. `honest`: say that the retrained models' line is the best that is worth having."""
    lines = []
    for model in found.models:
        detail = f"{HONEST}; {_seeds(model)}" if honest and model.label == RETRAINED else _seeds(model)
        cells = tuple(_cell(found.entries[model.label, column.key]) for column in columns)
        lines.append(GridLine(name_of(model), detail, cells, model.label == RETRAINED))
    return Grid("Model", tuple(column.label for column in columns), tuple(lines))


def by_column(found: Standings, columns: Sequence[Column]) -> Grid:
    """A line per column; the band stands first, beside it every model."""
    order = sorted(found.models, key=lambda model: model.label != RETRAINED)
    lines = tuple(
        GridLine(
            column.label,
            _rows([found.entries[model.label, column.key] for model in order]),
            tuple(_cell(found.entries[model.label, column.key]) for model in order),
            False,
        )
        for column in columns
    )
    place = 0 if order and order[0].label == RETRAINED else None
    return Grid("Score", tuple(name_of(model) for model in order), lines, place)


def costs(found: Standings) -> Table:
    """Settings and cost per model: means over the cells that ended well, the peak of all."""
    headers = ("Model", "Settings", "Seeds", "Steps", "Tokens", "Unlearning", "Whole cell", "Peak memory")
    lines = tuple(
        (
            name_of(model),
            "; ".join(dict.fromkeys(str(cell["settings"]) for cell in model.cells if cell["settings"])),
            _seeds(model),
            _whole(_mean(model, "steps")),
            _whole(_mean(model, "tokens")),
            duration(_mean(model, "unlearn_seconds")),
            duration(_mean(model, "seconds")),
            size(max(_values(model, "peak_memory_bytes"), default=None)),
        )
        for model in found.models
    )
    return Table("Settings and cost", headers, lines, wide=True)


def cells(found: Standings) -> Table:
    """Every cell with its verdict; a cell that failed says why."""
    lines = []
    for model in found.models:
        for cell in model.cells:
            verdict = cell.get("verdict") or {}
            said = [verdict.get(part) or NOT_MEASURED for part in ("forget", "rest")]
            remark = f"error: {cell['error']}" if cell["error"] else ", ".join(cell.get("flags") or ())
            lines.append((name_of(model), _seed(cell["seed"]), *said, remark))
    headers = ("Model", "Seed", "Rows to forget", "Rest of the model", "Remarks")
    return Table("Verdict of every cell", headers, tuple(lines), wide=True)


def errors(found: Standings) -> tuple[str, ...]:
    return tuple(
        f"{name_of(model)}, seed {_seed(cell['seed'])}: {cell['error']}"
        for model in found.models
        for cell in model.cells
        if cell["error"]
    )


def notes(found: Standings) -> tuple[str, ...]:
    """What a reader must know before trusting a word of the tables."""
    said = [
        "An interval covers 95 %, from the rows that happened to be asked and from the spread over seeds. A difference "
        "is the method's mean minus the retrained models' mean, row by row where the score is a mean over rows.",
        "The margin of a column is widened by half the spread of the retrained models: nothing need be closer to them "
        "than they are to one another.",
        "Words are given per column, without allowance for their number: of twenty intervals about one misses.",
    ]
    if found.twins == 1:
        said.append(
            "One retrained model only: how much such models differ by seed was not seen, so the band is too narrow."
        )
    if lone := [model.label for model in found.methods if len(model.done) == 1]:
        said.append(f"One seed only, so no spread over seeds was seen: {', '.join(lone)}.")
    return tuple(said)


def provenance(content: Mapping[str, Any]) -> tuple[Table, ...]:
    made = (
        pairs("Run", {key: content[key] for key in ("benchmark", "created", "machine")}),
        pairs("Rows", content["counts"]),
        pairs("Versions", content["versions"]),
        pairs("Configuration", content["config"], wide=True),
    )
    return tuple(table for table in made if table is not None)


def name_of(model: Model) -> str:
    return model.label.capitalize() if model.label in (ORIGINAL, RETRAINED) else model.label


def _cell(entry: Entry) -> Cell:
    if entry.pooled is None:
        return Cell(NOT_MEASURED, note=entry.missing)
    reach = entry.band if entry.standing is None and entry.word == "the band" else entry.pooled
    interval = interval_of(reach)
    if entry.standing is None:
        word = entry.word if entry.word in (NO_BAND, NOT_FINITE) else ""
        return Cell(number(entry.pooled.value), interval, "", word, TONES.get(word, "unknown"))
    difference = entry.standing.difference
    leaning = f", leans {entry.standing.leaning}" if entry.standing.leaning else ""
    away = f"{_signed(difference.value)} ({interval_of(difference)})" if math.isfinite(difference.value) else ""
    return Cell(
        value=number(entry.pooled.value),
        interval=interval,
        difference=away if difference.low is not None else "",
        word=f"{entry.word}{leaning}" if entry.word != NOT_FINITE else "",
        tone=TONES.get(entry.word, "unknown"),
    )


def interval_of(found: band.Pooled | band.Difference | None) -> str:
    """Empty where nothing defines one."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{number(found.low)} to {number(found.high)}"


def _signed(value: float) -> str:
    return f"+{number(value)}" if value >= 0 else number(value)


def _rows(entries: Iterable[Entry]) -> str:
    counts = [entry.count for entry in entries if entry.count is not None]
    return f"n = {min(counts)}" if counts else ""


def _seeds(model: Model) -> str:
    done, all_of_them = len(model.done), len(model.cells)
    return _many(done, "seed") if done == all_of_them else f"{done} of {_many(all_of_them, 'seed')}"


def _seed(seed: int | None) -> str:
    return "none" if seed is None else plain(seed)


def _values(model: Model, key: str) -> list[float]:
    return [float(cell[key]) for cell in model.done if cell.get(key) is not None]


def _mean(model: Model, key: str) -> float | None:
    values = _values(model, key)
    return sum(values) / len(values) if values else None


def _whole(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,.0f}"


def _many(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
