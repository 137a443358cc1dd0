"""From a record to the tables that every page shows: pure functions, no markup.

All cells are plain strings, *not* escaped: a page escapes what it prints. A value that was not measured reads
`NOT_MEASURED`. Losses are in nats per token, mean over the tokens of a row.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from expunge.reporting import metric_cards, readings
from expunge.reporting.finding import Comparison as Compared
from expunge.reporting.finding import Earlier, Metric, Row, Score
from expunge.reporting.record import Record, Text, Texts
from expunge.reporting.words import MODELS, NOT_MEASURED, SETS, Badge, badge, number, yes_or_no

MOST_ROWS = 5000
MOST_TEXTS = 200
CALIBRATED = "Calibrated: rows of the same kind that this model never saw."
NOT_CALIBRATED = "Not calibrated: they stand in for never-seen rows and may be easier or harder."
WORST_FIRST = ("failed", "not forgotten", "partly", "over-forgotten", "cannot tell", "forgotten")
FORGET, EARLIER = "forget row", "earlier request"


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


def headline(record: Record) -> Headline:
    verdict = record.verdict
    names = [*WORST_FIRST[::-1], *sorted(set(verdict.counts) - set(WORST_FIRST))]
    return Headline(
        sentence=verdict.sentence,
        passes=Badge("passes", "good") if verdict.passes else Badge("does not pass", "bad"),
        panels=(
            Panel("Rows to forget", badge(verdict.forget), verdict.forget_reasons),
            Panel("Rest of the model", badge(verdict.rest), verdict.rest_reasons),
            *_earlier(record.earlier),
        ),
        counts=tuple(Count(badge(name), rows) for name in names if (rows := verdict.counts.get(name))),
        compared_with=_compared_with(verdict.comparison),
    )


def _earlier(found: Earlier | None) -> tuple[Panel, ...]:
    """None where no rows of earlier requests were judged."""
    return (Panel("Rows of earlier requests", badge(found.verdict), found.reasons),) if found else ()


def _compared_with(found: Compared) -> str:
    kinds = ((found.documents, "documents"), (found.answers, "answers"))
    parts = [f"{count} {kind}" for count, kind in kinds if count]
    size = f" ({' and '.join(parts)})" if parts else ""
    quality = CALIBRATED if found.calibrated else NOT_CALIBRATED
    return f"Rows to forget were compared with {found.source} rows{size}. {quality}"


def models_of(record: Record) -> tuple[str, ...]:
    """Models with any score or row loss: known ones in their usual order, then others by name."""
    found = {score.model for score in record.scores}
    for losses in record.losses.values():
        found.update(model for model, values in losses.items() if values)
    return (*(model for model in MODELS if model in found), *sorted(found - set(MODELS)))


def comparison(record: Record) -> Comparison:
    models = models_of(record)
    scores = {(score.metric, score.set, score.model): score for score in record.scores}
    groups, cards = [], metric_cards.anchors(record)
    for name in _in_order((score.set for score in record.scores), SETS):
        metrics = _in_order((score.metric for score in record.scores if score.set == name), record.metrics)
        lines = tuple(
            _line(
                metric,
                cards.get(metric, ""),
                record.metrics.get(metric),
                name,
                {model: scores.get((metric, name, model)) for model in models},
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


def _line(name: str, anchor: str, words: Metric | None, of: str, scores: Mapping[str, Score | None]) -> Line:
    """`words`: what the metric says of itself; `of`: the set; `scores` by model, in the order of the columns."""
    ends = (words.card.least, words.card.most) if words else (None, None)
    reading = readings.read(words.high if words else "", of, scores, ends)
    return Line(
        metric=words.title if words else name,
        card=anchor,
        direction=words.direction if words else "",
        cells=tuple(_cell(score, ends) for score in scores.values()),
        reading=reading.word,
        tone=reading.tone,
    )


def _cell(score: Score | None, ends: readings.Ends) -> Cell:
    if score is None or score.value is None:
        return Cell(NOT_MEASURED)
    both = score.low is not None and score.high is not None
    interval = f"{number(score.low)} to {number(score.high)}" if both else ""
    if readings.says_nothing(score, ends):
        interval = readings.CANNOT_TELL
    return Cell(number(score.value), interval, f"n = {score.count}")


def row_table(record: Record, texts: Texts | None = None, most: int = MOST_ROWS) -> RowTable:
    """Row text enters only through `texts`, which are those of the forget rows."""
    every = [(FORGET, row) for row in record.rows]
    every += [(EARLIER, row) for row in (record.earlier.rows if record.earlier else ())]
    every.sort(key=lambda one: _badness(one[1]))
    measured = [part for _, row in every for part in (row.loss, row.known)]
    found = {model for part in measured for model, value in part.items() if value is not None}
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


def _badness(row: Row) -> tuple[int, float]:
    """Verdict, then rank where it says how bad the row is; otherwise the order of the file stays."""
    towards = {"not forgotten": 1.0, "partly": 1.0, "over-forgotten": -1.0}.get(row.verdict, 0.0)
    known = row.rank is not None and math.isfinite(row.rank)
    return WORST_FIRST.index(row.verdict), towards * row.rank if known else 0.0  # type: ignore[operator]


def _row_line(role: str, row: Row, models: Sequence[str], texts: Texts | None) -> RowLine:
    place = min(1.0, max(0.0, row.rank)) if row.rank is not None and math.isfinite(row.rank) else None
    return RowLine(
        name=row.name,
        id=row.id,
        role=role,
        kind=row.kind,
        badge=badge(row.verdict),
        reason=row.reason,
        losses=tuple(number(row.loss.get(model)) for model in models),
        target=number(row.target),
        rank=NOT_MEASURED if place is None else f"{row.rank:.2f}",
        step="" if place is None or row.resolution is None else f"step {number(row.resolution)}",
        place=place,
        known=tuple(yes_or_no(row.known.get(model)) for model in models),
        text=_row_text(texts.get(row.name), models) if texts is not None else None,
    )


def _row_text(text: Text | None, models: Sequence[str]) -> RowText:
    if text is None:
        return RowText(None, None, (None,) * len(models))
    return RowText(text["prompt"], text["completion"], tuple(text["generated"].get(model) for model in models))
