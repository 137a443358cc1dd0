"""The report as one HTML page that needs nothing outside itself: inline style, drawings and script.

The one script sorts and filters the table of rows, which is whole without it. The page allows no other: its policy
names the hash of that script, so that no string of a record could run even where it got past the escaping.
"""

import base64
import hashlib
import re
from pathlib import Path
from typing import TypedDict

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from expunge.files.visible import visible
from expunge.reporting import (
    attacks,
    balance,
    benchmark,
    curves,
    iterations,
    metric_cards,
    plots,
    provenance,
    summary,
    tables,
)
from expunge.reporting.record import Record, Texts
from expunge.reporting.words import MEANINGS, NOT_MEASURED, badge

COLOUR = re.compile("|".join(plots.THEME))
TEMPLATES = Path(__file__).parent / "templates"


def render(record: Record, texts: Texts | None = None) -> str:
    """`texts` is what `--show-rows` hands over; without it no row text can reach the page: no record holds any."""
    page = environment().get_template("report.html.jinja")
    script = (TEMPLATES / "rows.js").read_text(encoding="utf-8")
    return page.render(
        record=record,
        script=Markup(script),  # safe: ours
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        headline=tables.headline(record),
        facts=summary.facts(record),
        limits=summary.limits(record),
        balance=inline(balance.draw(record)),
        cards=metric_cards.cards(record),
        card_headers=metric_cards.HEADERS,
        card_title=metric_cards.TITLE,
        comparison=tables.comparison(record),
        attacks=attacks.section(record.attacks),
        curves=[(one.curve.title, inline(one.plot)) for one in curves.draw(record)],
        badge_of=badge,
        benchmark=benchmark.section(record.benchmark),
        losses=inline(plots.losses(record)),
        history=inline(None if iterations.only_proposed(record) else plots.history(record)),
        iterations=inline(iterations.draw(record)),
        steps=iterations.table(record),
        rows=tables.row_table(record, texts, tables.MOST_ROWS),
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


def _visible(value: object) -> object:
    """Before escaping, names the control characters of every string that enters the page; markup is ours."""
    return visible(value) if isinstance(value, str) and not isinstance(value, Markup) else value


class Drawing(TypedDict):
    """A drawing as a page takes it: markup, and what stands below it."""

    svg: Markup
    note: str


def inline(plot: plots.Plot | None) -> Drawing | None:
    """The drawing as markup with its words for those who cannot see it."""
    if plot is None:
        return None
    themed = COLOUR.sub(lambda found: f"var(--plot-{plots.THEME[found[0]]}, {found[0]})", plot.svg)
    named = themed.replace("<svg ", f'<svg role="img" aria-label="{escape(visible(plot.label))}" ', 1)
    return {"svg": Markup(named), "note": plot.note}  # safe: drawn from numbers and words that the drawing escapes
