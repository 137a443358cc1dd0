"""Pages, sheets and a drawing of a comparison (methods x seeds on one problem), from its content alone."""

from pathlib import Path

from expunge.files import plain_json
from expunge.files.typed import plain
from expunge.reporting import comparison_tables, findings, latex, scatter, sheets, standings
from expunge.reporting.content import Content
from expunge.reporting.html import environment, inline
from expunge.reporting.markdown import bullets, escaped, paragraph, table
from expunge.reporting.plots import Plot
from expunge.reporting.standings import Standings
from expunge.reporting.words import NOT_MEASURED


def write(folder: Path, content: Content) -> None:
    """Writes comparison.{json,html,md,csv,tex,svg} and cells.csv into an existing folder, over earlier ones."""
    found = standings.of(content)
    plot = scatter.draw(found)
    pages = {
        "comparison.html": page(found, content, plot),
        "comparison.md": markdown(found, content),
        "comparison.csv": sheets.columns(found),
        "cells.csv": sheets.cells(found),
        "comparison.tex": latex.render(found),
    }
    if plot is not None:
        pages["comparison.svg"] = scatter.standing_alone(plot)
    else:
        (folder / "comparison.svg").unlink(missing_ok=True)  # of an earlier state
    plain_json.write_json(folder / "comparison.json", plain(content))
    for name, text in pages.items():
        (folder / name).write_text(text, encoding="utf-8")


def page(found: Standings, content: Content, plot: Plot | None) -> str:
    """One HTML page that needs nothing outside itself: inline style, inline drawing, no script.

    `plot`: the drawing of forgetting against keeping, None where there is nothing to draw.
    """
    return (
        environment()
        .get_template("comparison.html.jinja")
        .render(
            content=content,
            headline=findings.headline(found),
            findings=findings.findings(found),
            errors=findings.errors(found),
            sections=comparison_tables.sections(found),
            plot=inline(plot),
            meanings=findings.MEANINGS,
            notes=findings.notes(found),
            overview=comparison_tables.overview(found),
            provenance=comparison_tables.provenance(content),
            not_measured=NOT_MEASURED,
        )
    )


def markdown(found: Standings, content: Content) -> str:
    """The tables of the HTML page in the same order, without the drawing."""
    parts = ["# Methods beside retrained models", paragraph(findings.headline(found))]
    parts.append("\n".join(line for finding in findings.findings(found) for line in _finding(finding)))
    if errors := findings.errors(found):
        parts += ["## Cells that ended with an error", bullets(errors)]
    for section in comparison_tables.sections(found):
        parts += [f"## {section.title}", paragraph(section.lead), _grid(section.grid)]
    meanings = [f"{word}: {meaning}" for word, meaning in findings.MEANINGS.items()]
    parts += ["## What the words mean", bullets(meanings), bullets(findings.notes(found))]
    for each in (*comparison_tables.overview(found), *comparison_tables.provenance(content)):
        parts += [f"## {escaped(each.title)}", table(each.headers, each.lines)]
    return "\n\n".join(parts) + "\n"


def _finding(finding: findings.Finding) -> list[str]:
    lines = [f"- **{escaped(finding.method)}**: {finding.badge.symbol} {escaped(finding.badge.word)}"]
    lines += [f"  - {escaped(place.word)}: {escaped(place.where)}" for place in finding.places]
    return [*lines, *([f"  - {escaped(finding.remark)}"] if finding.remark else [])]


def _grid(grid: comparison_tables.Grid) -> str:
    lines = (
        (f"{line.name} ({line.detail})" if line.detail else line.name, *(_cell(cell) for cell in line.cells))
        for line in grid.lines
    )
    return table((grid.corner, *grid.headers), lines)


def _cell(cell: comparison_tables.Cell) -> str:
    value = f"{cell.value} ({cell.interval or cell.note})" if cell.interval or cell.note else cell.value
    word = ", ".join(part for part in (cell.word, cell.leaning) if part)
    return f"{value}: {word}" if word else value
