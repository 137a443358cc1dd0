"""The comparison as Markdown: the tables of the HTML page, without the drawing."""

from collections.abc import Mapping
from typing import Any

from expunge.reporting.comparison import tables
from expunge.reporting.comparison.standings import Standings
from expunge.reporting.markdown import bullets, escaped, paragraph, table


def render(found: Standings, content: Mapping[str, Any]) -> str:
    """The same content and order as the HTML page."""
    parts = ["# Methods beside retrained models", paragraph(tables.headline(found))]
    parts += [
        f"- **{escaped(finding.method)}** {finding.badge.symbol} {escaped(finding.badge.word)}"
        + "".join(f"\n  - {paragraph(part)}" for part in finding.parts)
        for finding in tables.findings(found)
    ]
    if errors := tables.errors(found):
        parts += ["## Cells that ended with an error", bullets(errors)]
    for section in tables.sections(found):
        parts += [f"## {section.title}", paragraph(section.lead), _grid(section.grid)]
    meanings = [f"{word}: {meaning}" for word, meaning in tables.MEANINGS.items()]
    parts += ["## What the words mean", bullets(meanings), bullets(tables.notes(found))]
    for each in (tables.costs(found), tables.cells(found), *tables.provenance(content)):
        parts += [f"## {escaped(each.title)}", table(each.headers, each.lines)]
    return "\n\n".join(parts) + "\n"


def _grid(grid: tables.Grid) -> str:
    lines = (
        (f"{line.name} ({line.detail})" if line.detail else line.name, *(_cell(cell) for cell in line.cells))
        for line in grid.lines
    )
    return table((grid.corner, *grid.headers), lines)


def _cell(cell: tables.Cell) -> str:
    value = f"{cell.value} ({cell.interval or cell.note})" if cell.interval or cell.note else cell.value
    return f"{value}: {cell.word}" if cell.word else value
