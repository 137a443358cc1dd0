"""The report as Markdown: the tables of the HTML page, without drawings."""

import re
from collections.abc import Iterable, Sequence

from expunge.files.visible import visible
from expunge.reporting import attacks, benchmark, iterations, metric_cards, provenance, summary, tables
from expunge.reporting.record import Check, Record, Texts

# Everything that could start an element of GitHub Markdown within a line; an underscore only at the edge of a word.
MARKS = re.compile(r"[\\`*\[\]|~$@]|(?<!\w)_|_(?!\w)|:(?=//)|(?<=www)\.", re.IGNORECASE)
STARTS = re.compile(r"^(\d*)(?=[#+=-]|[.)](\s|$))")  # of a heading, a list, a rule
MOST_ROWS = 200  # longer tables are of no use where nothing sorts or filters them
ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})


def render(record: Record, texts: Texts | None = None) -> str:
    """The same content and order as the HTML page; row text enters only through `texts`."""
    rows = tables.row_table(record, texts, MOST_ROWS)
    parts = [
        *_verdict(record, shows_text=texts is not None),
        *_comparison(record),
        *_attacks(record),
        *_benchmark(record),
        *_iterations(record),
        *_rows(rows),
        *(_texts(rows) if texts is not None else ()),
        *_record(record),
    ]
    return "\n\n".join(parts) + "\n"


def escaped(text: str) -> str:
    """Plain text within a line: no markup, no table border, no line end and no hidden character survives."""
    line = re.sub(r"\s+", " ", visible(text)).strip().translate(ENTITIES)
    return MARKS.sub(lambda match: "\\" + match.group(), line)


def paragraph(text: str) -> str:
    """Plain text that opens a line of its own: neither a heading nor a list nor a rule begins with it."""
    return STARTS.sub(r"\g<1>\\", escaped(text), count=1)


def table(headers: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Escapes every cell; `&nbsp;` for an empty one."""
    head = [_row(headers), "|" + " --- |" * len(headers)]
    return "\n".join([*head, *(_row(line) for line in lines)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(escaped(cell) or "&nbsp;" for cell in cells) + " |"


def bullets(lines: Iterable[str]) -> str:
    """Escapes every line."""
    return "\n".join(f"- {paragraph(line)}" for line in lines)


def _verdict(record: Record, shows_text: bool) -> list[str]:
    headline = tables.headline(record)
    parts = [f"# {escaped(headline.sentence)}", f"**{headline.passes.symbol} {escaped(headline.passes.word)}**"]
    for panel in headline.panels:
        parts.append(f"## {panel.title}: {panel.badge.symbol} {escaped(panel.badge.word)}")
        parts.extend([bullets(panel.reasons)] if panel.reasons else [])
    if headline.counts:
        parts.append(table(("Verdict on single rows", "Rows"), ((c.badge.word, str(c.rows)) for c in headline.counts)))
    parts.append("\n".join(f"- **{fact.title}**: {escaped(fact.text)}" for fact in summary.facts(record)))
    parts.extend(["## What this evidence does not show", bullets(summary.limits(record))])
    if shows_text:
        parts.append("**This page shows row text: the rows that were to be forgotten stand in it in full.**")
    return parts


def _comparison(record: Record) -> list[str]:
    comparison = tables.comparison(record)
    lead = (
        "The retrained model was trained without the forget rows: where it is, is the best that unlearning can reach."
    )
    parts = ["## Side by side", f"{lead} {comparison.missing}".strip()]
    headers = ("Score", *(model.capitalize() for model in comparison.models), "Unlearned model is")
    for group in comparison.groups:
        lines = [
            (f"{line.metric} ({line.direction})" if line.direction else line.metric,
             *(_cell(cell) for cell in line.cells), line.reading)
            for line in group.lines
        ]  # fmt: skip
        parts.extend([f"### {escaped(group.title)}", *([group.best] if group.best else []), table(headers, lines)])
    cards = metric_cards.cards(record)
    if cards:
        lines = [(card.title, *card.lines) for card in cards]
        parts.extend([f"### {metric_cards.TITLE}", table(metric_cards.HEADERS, lines)])
    return parts if comparison.groups else [*parts, "No scores were measured."]


def _cell(cell: tables.Cell) -> str:
    details = ", ".join(part for part in (cell.interval, cell.count) if part)
    return f"{cell.value} ({details})" if details else cell.value


def _attacks(record: Record) -> list[str]:
    found = attacks.section(record.attacks)
    lines = [found.lead, table(found.headers, found.lines)] if found.lines else []
    return [f"## {found.title}", *lines, *([paragraph(found.not_tested)] if found.not_tested else [])]


def _benchmark(record: Record) -> list[str]:
    found = benchmark.section(record.benchmark)
    if found is None:
        return []
    parts = [f"## {escaped(found.title)}", found.lead, *([bullets(found.flags)] if found.flags else [])]
    for scores in found.tables:
        parts.extend([f"### {scores.title}", table(scores.headers, scores.lines)])
    return [*parts, bullets(found.notes)] if found.notes else parts


def _rows(rows: tables.RowTable) -> list[str]:
    losses = tuple(f"Loss {model}" for model in rows.models)
    known = tuple(f"Known {model}" for model in rows.models)
    headers = ("Row", "Hash", "Role", "Kind", "Verdict", "Reason", *losses, "Target", "Rank", *known)
    lines = [
        (
            r.name,
            r.id,
            r.role,
            r.kind,
            f"{r.badge.symbol} {r.badge.word}",
            r.reason,
            *r.losses,
            r.target,
            f"{r.rank} ({r.step})" if r.step else r.rank,
            *r.known,
        )
        for r in rows.lines
    ]
    lead = (
        "Losses in nats per token. The rank is the share of comparable never-seen rows with a lower loss: near 0 the "
        "row is still known, near 1 the model avoids it. Worst first."
    )
    parts = ["## Verdict row by row", lead]
    if rows.left_out:
        shown = len(lines)
        parts.append(
            f"The {shown} worst of {shown + rows.left_out} rows; the other {rows.left_out} are in record.json."
        )
    return [*parts, table(headers, lines) if lines else "No rows in the record."]


def _iterations(record: Record) -> list[str]:
    headers, lines = iterations.table(record)
    return [f"## {iterations.TITLE}", "Losses and KL are in nats per token.", table(headers, lines)] if lines else []


def _texts(rows: tables.RowTable) -> list[str]:
    headers = ("Row", "Prompt", "Completion or text", *(f"{model.capitalize()} writes" for model in rows.models))
    lines = [
        (row.name, row.text.prompt or "", row.text.completion or "", *(text or "" for text in row.text.generated))
        for row in rows.lines
        if row.text is not None
    ]
    return ["## Row text and generations", "This page shows row text.", table(headers, lines)]


def _record(record: Record) -> list[str]:
    parts = ["## The record", escaped(provenance.subspace_sentence(record)) or "Nothing was trained."]
    for found in provenance.tables(record):
        parts.extend([f"### {found.title}", table(found.headers, found.lines)])
    if steps := record.history:
        parts.append("### Training, in nats per token")
        chosen = steps[:: max(1, len(steps) // 20)] + (steps[-1:] if len(steps) > 20 else ())
        parts.append(table(("Step", "Forget", "Target", "Retain", "Guard"), map(_check, chosen)))
    return parts


def _check(one: Check) -> tuple[str, ...]:
    losses = (one.forget, one.target, one.retain, one.guard)
    return (str(one.step), *("" if loss is None else f"{loss:.3f}" for loss in losses))
