"""The comparison as one HTML page that needs nothing outside itself: inline style, inline drawing, no script."""

from collections.abc import Mapping
from typing import Any

from expunge.reporting.comparison import findings, tables
from expunge.reporting.comparison.standings import Standings
from expunge.reporting.html import environment, inline
from expunge.reporting.plots import Plot
from expunge.reporting.words import NOT_MEASURED


def render(found: Standings, content: Mapping[str, Any], plot: Plot | None) -> str:
    """`plot`: the drawing of forgetting against keeping, None where there is nothing to draw."""
    return (
        environment()
        .get_template("comparison.html.jinja")
        .render(
            content=content,
            headline=findings.headline(found),
            findings=findings.findings(found),
            errors=findings.errors(found),
            sections=tables.sections(found),
            plot=inline(plot),
            meanings=findings.MEANINGS,
            notes=findings.notes(found),
            overview=tables.overview(found),
            provenance=tables.provenance(content),
            not_measured=NOT_MEASURED,
        )
    )
