"""The comparison as Markdown: the tables of the HTML page, without the drawing."""

from collections.abc import Mapping
from typing import Any

from expunge.reporting.comparison import findings, tables
from expunge.reporting.comparison.standings import Standings
from expunge.reporting.markdown import bullets, escaped, paragraph, table


def render(found: Standings, content: Mapping[str, Any]) -> str:
    """The same content and order as the HTML page."""
    parts = ["# Methods beside retrained models", paragraph(findings.headline(found))]
    parts.append("\n".join(line for finding in findings.findings(found) for line in _finding(finding)))
    if errors := findings.errors(found):
        parts += ["## Cells that ended with an error", bullets(errors)]
    for section in tables.sections(found):
        parts += [f"## {section.title}", paragraph(section.lead), _grid(section.grid)]
    meanings = [f"{word}: {meaning}" for word, meaning in findings.MEANINGS.items()]
    parts += ["## What the words mean", bullets(meanings), bullets(findings.notes(found))]
    for each in (*tables.overview(found), *tables.provenance(content)):
        parts += [f"## {escaped(each.title)}", table(each.headers, each.lines)]
    return "\n\n".join(parts) + "\n"


def _finding(finding: findings.Finding) -> list[str]:
    lines = [f"- **{escaped(finding.method)}**: {finding.badge.symbol} {escaped(finding.badge.word)}"]
    lines += [f"  - {escaped(place.word)}: {escaped(place.where)}" for place in finding.places]
    return [*lines, *([f"  - {escaped(finding.remark)}"] if finding.remark else [])]


def _grid(grid: tables.Grid) -> str:
    lines = (
        (f"{line.name} ({line.detail})" if line.detail else line.name, *(_cell(cell) for cell in line.cells))
        for line in grid.lines
    )
    return table((grid.corner, *grid.headers), lines)


def _cell(cell: tables.Cell) -> str:
    value = f"{cell.value} ({cell.interval or cell.note})" if cell.interval or cell.note else cell.value
    word = ", ".join(part for part in (cell.word, cell.leaning) if part)
    return f"{value}: {word}" if word else value
