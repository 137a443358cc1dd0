"""Rows of earlier requests, the run before and what still holds the rows: on every page, escaped."""

from collections.abc import Callable
from typing import Any

import pytest

from expunge.reporting import card, html, markdown, tables
from html_pages import Page, outside, typed, words
from reporting.conftest import HOSTILE

IDS = ["a" * 16, "b" * 16]


@pytest.fixture
def record(make_record: Callable[..., Any]) -> Any:
    """A second request: of two earlier rows one came back, three were not given again."""
    found = make_record()
    rows = [
        {**found["rows"][place], "name": f"{HOSTILE}:{place}", "id": IDS[place], "verdict": verdict, "reason": "so"}
        for place, verdict in enumerate(("not forgotten", "forgotten"))
    ]
    for row in rows:
        row["loss"] = {"first": 0.125, "original": 4.5, "unlearned": 1.25, "retrained": None}
    earlier = {"verdict": "not forgotten", "reasons": ["1 row came back"], "counts": {}, "rows": rows}
    parent = {"path": HOSTILE, "record": "c" * 64, "created": "2026-01-01T00:00:00+00:00", "same_weights": False}
    parent |= {"same_key": True, "served": [*IDS, "d" * 16], "served_again": [], "missing": ["d" * 16]}
    holders = [{"what": "the original model, of earlier requests", "where": HOSTILE}]
    return found | {"earlier": earlier | {"came_back": IDS[:1]}, "parent": parent, "holders": holders}


def test_the_verdict_on_earlier_rows_stands_beside_the_others(record: Any) -> None:
    panels = tables.headline(typed(record)).panels
    assert [panel.title for panel in panels] == ["Rows to forget", "Rest of the model", "Rows of earlier requests"]
    assert panels[2].badge.word == "not forgotten" and panels[2].reasons == ("1 row came back",)
    assert "- Rows of earlier requests: ✗ not forgotten" in card.render(typed(record))
    assert len(tables.headline(typed(record | {"earlier": None})).panels) == 2


def test_pages_name_each_row_the_run_before_and_what_holds_the_rows(record: Any) -> None:
    page = markdown.render(typed(record))
    lines = [line for line in page.splitlines() if "came back: not forgotten" in line]
    assert len(lines) == 1 and IDS[0] in lines[0] and "| 0.125 | 4.500 | 1.250 | not measured |" in lines[0]
    for said in ("The run before", "its weights are those it wrote | no |", "not given to be judged again | 1 |"):
        assert said in page
    assert "What still holds the rows" in page and "of earlier requests" in page
    assert "The run before" in html.render(typed(record)) and "The run before" not in html.render(
        typed(record | {"parent": None})
    )


def test_nothing_in_them_becomes_markup(record: Any) -> None:
    page = html.render(typed(record))
    assert not outside(page) and "script" not in Page(page).tags and HOSTILE.split()[0] in words(page)
    assert "<script" not in markdown.render(typed(record)) and "\u202e" not in page + markdown.render(typed(record))
