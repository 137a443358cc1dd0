"""The report as one HTML page that needs nothing outside itself: inline style, inline drawings, no script."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from expunge.files.visible import visible
from expunge.reporting import attacks, benchmark, iterations, plots, provenance, tables
from expunge.reporting.words import MEANINGS, NOT_MEASURED

Record = Mapping[str, Any]
TEMPLATES = Path(__file__).parent / "templates"


def render(record: Record, texts: Mapping[str, Any] | None = None) -> str:
    """`texts` is what `--show-rows` hands over; without it no row text can reach the page, since no record holds any.

    Raises `InputError` where the record is of another schema or incomplete.
    """
    tables.check(record)
    page = environment().get_template("report.html.jinja")
    return page.render(
        record=record,
        headline=tables.headline(record),
        comparison=tables.comparison(record),
        attacks=attacks.section(record),
        benchmark=benchmark.section(record),
        losses=inline(plots.losses(record)),
        history=inline(None if iterations.only_proposed(record) else plots.history(record)),
        iterations=inline(iterations.draw(record)),
        steps=iterations.table(record),
        rows=tables.row_table(record, texts),
        shows_text=texts is not None,
        record_tables=provenance.tables(record),
        subspace=provenance.subspace_sentence(record),
        meanings=MEANINGS,
        not_measured=NOT_MEASURED,
    )


def environment() -> Environment:
    """Templates that escape every string and name its control characters."""
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _visible(value: Any) -> Any:
    """Before escaping, names the control characters of every string that enters the page; markup is ours."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def inline(plot: plots.Plot | None) -> dict[str, Any] | None:
    """The drawing as markup with its words for those who cannot see it."""
    if plot is None:
        return None
    named = plot.svg.replace("<svg ", f'<svg role="img" aria-label="{escape(plot.label)}" ', 1)
    return {"svg": Markup(named), "note": plot.note}  # safe: drawn from numbers and words that the drawing escapes
