"""Pages, sheets and a drawing of a comparison (methods x seeds on one problem), from its content alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from expunge import record
from expunge.reporting.comparison import html, latex, markdown, scatter, sheets, standings


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes comparison.{json,html,md,csv,tex,svg} and cells.csv into an existing folder, over earlier ones.

    Raises `InputError` where the content cannot be shown, before anything is written.
    """
    found = standings.of(content)
    plot = scatter.draw(found)
    pages = {
        "comparison.html": html.render(found, content, plot),
        "comparison.md": markdown.render(found, content),
        "comparison.csv": sheets.columns(found),
        "cells.csv": sheets.cells(found),
        "comparison.tex": latex.render(found),
    }
    if plot is not None:
        pages["comparison.svg"] = scatter.standing_alone(plot)
    else:
        (folder / "comparison.svg").unlink(missing_ok=True)  # of an earlier state
    record.write_json(folder / "comparison.json", content)
    for name, page in pages.items():
        (folder / name).write_text(page, encoding="utf-8")
