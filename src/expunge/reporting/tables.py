"""From a record to the tables that every page shows: pure functions, no markup.

All cells are plain strings, *not* escaped: a page escapes what it prints. A value that was not measured reads
`NOT_MEASURED`. Losses are in nats per token, mean over the tokens of a row.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.errors import InputError
from expunge.reporting import metric_cards, readings
from expunge.reporting.words import MODELS, NOT_MEASURED, SETS, Badge, badge, number, yes_or_no

Record = Mapping[str, Any]
SCHEMA = 2
MOST_ROWS = 5000
MOST_TEXTS = 200
CALIBRATED = "Calibrated: rows of the same kind that this model never saw."
NOT_CALIBRATED = "Not calibrated: they stand in for never-seen rows and may be easier or harder."
WORST_FIRST = ("failed", "not forgotten", "partly", "over-forgotten", "cannot tell", "forgotten")
FORGET, EARLIER = "forget row", "earlier request"
TEXTS, LISTS, MAPPINGS = (str,), (list,), (dict,)
NEEDED: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("command", "created", "machine"), TEXTS),
    **dict.fromkeys(("history", "holders", "limits", "rows", "scores"), LISTS),
    **dict.fromkeys(("config", "data", "hashes", "losses", "metrics", "seconds", "verdict", "versions"), MAPPINGS),
    **dict.fromkeys(("benchmark", "earlier", "method", "parent", "rendering", "save", "subspace"), (dict, type(None))),
    **dict.fromkeys(("interruptions", "peak_memory_bytes"), (int,)),
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One half of the verdict: what was asked, the answer, and why."""

    title: str
    badge: Badge
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows share a verdict."""

    badge: Badge
    rows: int


@dataclass(frozen=True, slots=True)
class Headline:
    """What a page says first."""

    sentence: str
    passes: Badge
    panels: tuple[Panel, ...]
    counts: tuple[Count, ...]
    compared_with: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One score of one model; the interval and the count are empty where unknown."""

    value: str
    interval: str = ""
    count: str = ""


@dataclass(frozen=True, slots=True)
class Line:
    """One metric on one set; `cells` follow `Comparison.models`; `reading` says where the unlearned one lies; `card`:
    the anchor of what the metric means, empty where nothing is said of it."""

    metric: str
    card: str
    direction: str
    cells: tuple[Cell, ...]
    reading: str
    tone: str


@dataclass(frozen=True, slots=True)
class Group:
    """The lines of one set, and where its best value lies."""

    title: str
    best: str
    lines: tuple[Line, ...]


@dataclass(frozen=True, slots=True)
class Comparison:
    """Scores side by side. `missing` says in a sentence which of the three models nobody measured, or is empty."""

    models: tuple[str, ...]
    groups: tuple[Group, ...]
    missing: str


@dataclass(frozen=True, slots=True)
class RowText:
    """What `--show-rows` adds to a row; `generated` follows `RowTable.models`, None where there is none."""

    prompt: str | None
    completion: str | None
    generated: tuple[str | None, ...]


@dataclass(frozen=True, slots=True)
class RowLine:
    """One row; `losses` and `known` follow `RowTable.models`; `place` is the rank as a number from 0 to 1.

    `role`: asked for now, or by an earlier request. `step` is the finest difference in rank that the number of compared
    rows allows.
    """

    name: str
    id: str
    role: str
    kind: str
    badge: Badge
    reason: str
    losses: tuple[str, ...]
    target: str
    rank: str
    step: str
    place: float | None
    known: tuple[str, ...]
    text: RowText | None


@dataclass(frozen=True, slots=True)
class RowTable:
    """The worst rows first; `left_out` more are in the record only. Text stands with the first `MOST_TEXTS` at most.

    `verdicts` and `roles`: those that occur, the worst first.
    """

    models: tuple[str, ...]
    lines: tuple[RowLine, ...]
    left_out: int
    verdicts: tuple[str, ...]
    roles: tuple[str, ...]


def check(record: Record) -> None:
    """Refuses a record that the pages cannot show, before any page is written."""
    if record.get("schema") != SCHEMA:
        raise InputError(
            f"This version reports on records of schema {SCHEMA}; this one says {record.get('schema')!r}. "
            "Report with the version of expunge that wrote it: see 'versions' in record.json."
        )
    missing = [key for key in sorted(NEEDED) if key not in record]
    if missing:
        raise InputError(f"The record lacks {', '.join(missing)}. Was record.json cut off or edited?")
    for key, types in NEEDED.items():
        if not isinstance(record[key], types):
            found, wanted = type(record[key]).__name__, " or ".join(one.__name__ for one in types)
            raise InputError(f"In the record, {key} must be {wanted}, found {found}. Was record.json edited?")


def headline(record: Record) -> Headline:
    verdict = record["verdict"]
    passes: dict[Any, Badge] = {True: Badge("passes", "good"), False: Badge("does not pass", "bad")}
    counts = verdict.get("counts") or {}
    names = [*WORST_FIRST[::-1], *sorted(set(counts) - set(WORST_FIRST))]
    return Headline(
        sentence=verdict["sentence"],
        passes=passes.get(verdict.get("passes"), Badge("no pass or fail", "unknown")),
        panels=(
            Panel("Rows to forget", badge(verdict["forget"]), tuple(verdict.get("forget_reasons") or ())),
            Panel("Rest of the model", badge(verdict["rest"]), tuple(verdict.get("rest_reasons") or ())),
            *_earlier(record["earlier"]),
        ),
        counts=tuple(Count(badge(name), counts[name]) for name in names if counts.get(name)),
        compared_with=_compared_with(verdict.get("comparison")),
    )


def _earlier(found: Mapping[str, Any] | None) -> tuple[Panel, ...]:
    """None where no rows of earlier requests were judged."""
    return (Panel("Rows of earlier requests", badge(found["verdict"]), tuple(found["reasons"])),) if found else ()


def _compared_with(comparison: Mapping[str, Any] | None) -> str:
    if not comparison:
        return "The verdict was reached without rows to compare with."
    documents, answers = comparison.get("documents") or 0, comparison.get("answers") or 0
    parts = [f"{count} {kind}" for count, kind in ((documents, "documents"), (answers, "answers")) if count]
    size = f" ({' and '.join(parts)})" if parts else ""
    calibrated, quality = comparison.get("calibrated"), ""
    if calibrated is not None:
        quality = CALIBRATED if calibrated else NOT_CALIBRATED
    return f"Rows to forget were compared with {comparison.get('source')} rows{size}. {quality}".strip()


def models_of(record: Record) -> tuple[str, ...]:
    """Models with any score or row loss: known ones in their usual order, then others by name."""
    found = {score["model"] for score in record["scores"]}
    for losses in record["losses"].values():
        found.update(model for model, values in losses.items() if values)
    return (*(model for model in MODELS if model in found), *sorted(found - set(MODELS)))


def comparison(record: Record) -> Comparison:
    models = models_of(record)
    scores = {(score["metric"], score["set"], score["model"]): score for score in record["scores"]}
    groups, cards = [], metric_cards.anchors(record)
    for name in _in_order((score["set"] for score in record["scores"]), SETS):
        metrics = _in_order((score["metric"] for score in record["scores"] if score["set"] == name), record["metrics"])
        lines = tuple(
            _line(
                metric,
                cards.get(metric, ""),
                record["metrics"].get(metric, {}),
                name,
                {m: scores.get((metric, name, m)) for m in models},
            )
            for metric in metrics
        )
        words = SETS.get(name)
        best = words.best_without_retrained if words and "retrained" not in models else words.best if words else ""
        groups.append(Group(words.title if words else name, best, lines))
    missing = [model for model in MODELS if model not in models]
    sentence = f"Not measured: the {' and the '.join(missing)} model." if missing else ""
    return Comparison(models, tuple(groups), sentence)


def _in_order(names: Iterable[str], order: Iterable[str]) -> list[str]:
    found = set(names)
    known = [name for name in order if name in found]
    return known + sorted(found.difference(known))


def _line(
    metric: str, anchor: str, words: Mapping[str, Any], name: str, scores: Mapping[str, Mapping[str, Any] | None]
) -> Line:
    """`words`: what the metric says of itself; `scores` by model, in the order of the columns."""
    card = words.get("card") or {}
    ends = (card.get("least"), card.get("most"))
    reading = readings.read(words.get("high", ""), name, scores, ends)
    return Line(
        metric=words.get("title", metric),
        card=anchor,
        direction=words.get("direction", ""),
        cells=tuple(_cell(score, ends) for score in scores.values()),
        reading=reading.word,
        tone=reading.tone,
    )


def _cell(score: Mapping[str, Any] | None, ends: readings.Ends) -> Cell:
    if score is None or score.get("value") is None:
        return Cell(NOT_MEASURED)
    low, high, count = score.get("low"), score.get("high"), score.get("count")
    interval = f"{number(low)} to {number(high)}" if low is not None and high is not None else ""
    if readings.says_nothing(score, ends):
        interval = readings.CANNOT_TELL
    return Cell(number(score["value"]), interval, f"n = {count}" if count is not None else "")


def row_table(record: Record, texts: Mapping[str, Any] | None = None, most: int = MOST_ROWS) -> RowTable:
    """Row text enters only through `texts`, which are those of the forget rows."""
    roles = {FORGET: record["rows"], EARLIER: (record["earlier"] or {}).get("rows") or ()}
    every = [(role, row) for role, rows in roles.items() for row in rows]
    every.sort(key=lambda one: _badness(one[1]))
    measured = [(row.get(column) or {}).items() for _, row in every for column in ("loss", "known")]
    found = {model for values in measured for model, value in values if value is not None}
    models = tuple(model for model in MODELS if model in found)
    lines = tuple(
        _row_line(role, row, models, texts if role == FORGET and place < MOST_TEXTS else None)
        for place, (role, row) in enumerate(every[:most])
    )
    return RowTable(
        models=models,
        lines=lines,
        left_out=max(0, len(every) - most),
        verdicts=tuple(dict.fromkeys(line.badge.word for line in lines)),
        roles=tuple(dict.fromkeys(line.role for line in lines)),
    )


def _badness(row: Mapping[str, Any]) -> tuple[int, float]:
    """Verdict, then rank where it says how bad the row is; otherwise the order of the file stays."""
    verdict, rank = row["verdict"], row.get("rank")
    place = WORST_FIRST.index(verdict) if verdict in WORST_FIRST else 0
    towards = {"not forgotten": 1.0, "partly": 1.0, "over-forgotten": -1.0}.get(verdict, 0.0)
    return place, towards * rank if rank is not None and math.isfinite(rank) else 0.0


def _row_line(role: str, row: Mapping[str, Any], models: Sequence[str], texts: Mapping[str, Any] | None) -> RowLine:
    losses, known = row.get("loss") or {}, row.get("known") or {}
    rank, resolution = row.get("rank"), row.get("resolution")
    place = min(1.0, max(0.0, rank)) if rank is not None and math.isfinite(rank) else None
    return RowLine(
        name=row["name"],
        id=row.get("id") or "",
        role=role,
        kind=row.get("kind") or "",
        badge=badge(row["verdict"]),
        reason=row.get("reason") or "",
        losses=tuple(number(losses.get(model)) for model in models),
        target=number(row.get("target")),
        rank=NOT_MEASURED if place is None else f"{rank:.2f}",
        step="" if place is None or resolution is None else f"step {number(resolution)}",
        place=place,
        known=tuple(yes_or_no(known.get(model)) for model in models),
        text=_row_text(texts.get(row["name"]), models) if texts is not None else None,
    )


def _row_text(text: Mapping[str, Any] | None, models: Sequence[str]) -> RowText:
    text = text or {}
    generated = text.get("generated") or {}
    return RowText(text.get("prompt"), text.get("completion"), tuple(generated.get(model) for model in models))
