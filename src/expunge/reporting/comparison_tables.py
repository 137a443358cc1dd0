"""The tables of a comparison as plain strings, *not* escaped: each page escapes what it prints."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from expunge.reporting import likelihood, proposals
from expunge.reporting.content import Column, Content
from expunge.reporting.finding import Word
from expunge.reporting.provenance import Table, pairs
from expunge.reporting.standings import (
    NO_BAND,
    ORIGINAL,
    RETRAINED,
    THE_BAND,
    Entry,
    Model,
    Standings,
)
from expunge.reporting.words import NOT_MEASURED, duration, number, plain, size
from expunge.scoring import band
from expunge.scoring.band import AS_RETRAINED, CANNOT_TELL, DIFFERS, NOT_FINITE
from expunge.scoring.intervals import Score

TONES = {
    AS_RETRAINED: "good",
    "short": "bad",
    "beyond": "over",
    "lost": "bad",
    "gained": "warn",
    DIFFERS: "warn",
    NOT_FINITE: "bad",
}
Cost = Literal["steps", "tokens", "unlearn_seconds", "seconds", "peak_memory_bytes"]
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
    """One model in one column; parts that do not apply are empty. `note`: why nothing was measured.

    `away`: the interval of the difference to the retrained models, on which the word rests.
    """

    value: str
    interval: str = ""
    away: str = ""
    word: str = ""
    leaning: str = ""
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


def overview(found: Standings) -> tuple[Table, ...]:
    """Attacks, settings, proposals and verdicts, without tables that have no lines."""
    every = (under_attack(found), told_apart(found), costs(found), proposed(found), cells(found))
    return tuple(table for table in every if table.lines)


def under_attack(found: Standings) -> Table:
    """The word of each attack on each model; where seeds differ, each with how many have it. Empty without attacks."""
    done = [(model, [cell.attacks for cell in model.done if cell.attacks]) for model in found.models]
    titles = dict.fromkeys(one.title for _, cells in done for results in cells for one in results)
    lines = []
    for model, cells in done:
        if cells:
            words = {
                title: Counter(one.verdict for results in cells for one in results if one.title == title)
                for title in titles
            }
            lines.append((name_of(model), many(len(cells), "seed"), *map(_counted, words.values())))
    headers = ("Model", "Seeds", *(title.capitalize() for title in titles))
    return Table("Under attack", headers, tuple(lines), wide=True)


def told_apart(found: Standings) -> Table:
    """Each cell beside the retrained models; without lines where `likelihood.told` has nothing."""
    lines = []
    for model, cell, got in likelihood.told(found):
        scores = (f"{number(one.value)} ({interval_of(one)})" for one in (got.area, got.rate))
        lines.append((name_of(model), seed_of(cell.seed), *scores))
    return Table(likelihood.TITLE, likelihood.HEADERS, tuple(lines), wide=True)


def _counted(words: Counter[Word]) -> str:
    if len(words) == 1:
        return next(iter(words))
    return ", ".join(f"{word} ({count})" for word, count in words.most_common()) or NOT_MEASURED


def costs(found: Standings) -> Table:
    """Settings and cost per model: means over the cells that ended well, the peak of all."""
    headers = ("Model", "Settings", "Seeds", "Steps", "Tokens", "Unlearning", "Whole cell", "Peak memory")
    lines = tuple(
        (
            name_of(model),
            "; ".join(dict.fromkeys(cell.settings for cell in model.cells if cell.settings)),
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


def proposed(found: Standings) -> Table:
    """What the methods proposed, cell by cell."""
    lines = tuple(
        (f"{name_of(model)}, seed {seed_of(cell.seed)}", *line)
        for model in found.models
        for cell in model.done
        for line in proposals.lines(cell.proposals, cell.sophia)
    )
    return Table(proposals.TITLE, ("Cell", *proposals.HEADERS), lines, wide=True)


def cells(found: Standings) -> Table:
    """Every cell with its verdict; a cell that failed says why."""
    lines = []
    for model in found.models:
        for cell in model.cells:
            said = (cell.verdict.forget, cell.verdict.rest) if cell.verdict else (NOT_MEASURED, NOT_MEASURED)
            remark = f"error: {cell.error}" if cell.error else ", ".join(cell.flags)
            lines.append((name_of(model), seed_of(cell.seed), *said, remark))
    headers = ("Model", "Seed", "Rows to forget", "Rest of the model", "Remarks")
    return Table("Verdict of every cell", headers, tuple(lines), wide=True)


def provenance(content: Content) -> tuple[Table, ...]:
    made = (
        pairs("Run", {"benchmark": content.benchmark, "created": content.created, "machine": content.machine}),
        pairs("Rows", content.counts),
        pairs("Versions", content.versions),
        pairs("Configuration", content.config, wide=True),
    )
    return tuple(table for table in made if table is not None)


def name_of(model: Model) -> str:
    """As a page shows it."""
    return model.label.capitalize() if model.label in (ORIGINAL, RETRAINED) else model.label


def _cell(entry: Entry) -> Cell:
    if entry.pooled is None:
        return Cell(NOT_MEASURED, note=entry.missing)
    value, standing = number(entry.pooled.value), entry.standing
    if standing is None:
        is_band = entry.word == THE_BAND
        word = entry.word if entry.word in (NO_BAND, NOT_FINITE) else ""
        return Cell(value, interval_of(entry.band if is_band else entry.pooled), word="" if word == value else word)
    return Cell(
        value=value,
        interval=interval_of(entry.pooled),
        away=interval_of(standing.difference),
        word=standing.word if standing.word != value else "",
        leaning=_leaning(standing),
        tone=TONES.get(standing.word, "unknown"),
    )


def _leaning(standing: band.Standing) -> str:
    if standing.word == CANNOT_TELL and standing.difference.low is None:
        return "no interval"
    word = "outside" if standing.leaning == DIFFERS else standing.leaning
    return f"leans {word}" if word else ""


def interval_of(found: band.Pooled | band.Difference | Score | None) -> str:
    """Empty where nothing defines one."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{number(found.low)} to {number(found.high)}"


def _rows(entries: Iterable[Entry]) -> str:
    counts = [entry.count for entry in entries if entry.count is not None]
    return f"n = {min(counts)}" if counts else ""


def _seeds(model: Model) -> str:
    done, all_of_them = len(model.done), len(model.cells)
    return many(done, "seed") if done == all_of_them else f"{done} of {many(all_of_them, 'seed')}"


def seed_of(seed: int | None) -> str:
    """The original has none."""
    return "none" if seed is None else plain(seed)


def _values(model: Model, key: Cost) -> list[float]:
    return [float(value) for cell in model.done if (value := getattr(cell, key)) is not None]


def _mean(model: Model, key: Cost) -> float | None:
    values = _values(model, key)
    return sum(values) / len(values) if values else None


def _whole(value: float | None) -> str:
    return NOT_MEASURED if value is None else f"{value:,.0f}"


def many(count: int, thing: str) -> str:
    """A count and its noun, one or several."""
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"
