"""The section of official scores on both pages: every term, what is missing and why, nothing unescaped."""

import re
from collections.abc import Callable

import pytest

from expunge.reporting import benchmark, html, markdown
from html_pages import Make, Record, scriptless, typed

HOSTILE = "<script>alert(1)</script> | **bold**"


def scored(value: float) -> Record:
    return {"value": value, "low": value - 0.01, "high": value + 0.01, "count": 40}


def official(value: float, mmlu: Record) -> Record:
    names = ("1 - knowledge (forget, Task1)", "knowledge (retain, Task1)")
    return {
        "parts": {"final": {"missing": "needs MMLU"}, "task aggregate": scored(value), "MMLU": mmlu},
        "terms": {name: scored(value) for name in names},
        "beside": {"AUC (Task3 documents)": scored(0.5)},
        "notes": ["not the official non-members"],
    }


def with_block(record: Record, reason: str = "no data here") -> Record:
    models = {name: official(0.8 + n / 10, {"missing": reason}) for n, name in enumerate(("original", "unlearned"))}
    return record | {
        "benchmark": {"name": "lume", "title": "LUME (x)", "models": models, "flags": ["over-forgets: in a term"]}
    }


def check_section(page: str) -> None:
    assert "LUME (x)" in page and "over-forgets: in a term" in page
    for name in ("1 - knowledge (forget, Task1)", "knowledge (retain, Task1)", "AUC (Task3 documents)", "final"):
        assert name in page, name
    assert "0.900 (0.890 to 0.910)" in page and "not the official non-members" in page
    assert re.search(r"MMLU is missing \(original, unlearned\): no data here", page)
    assert len(re.findall("no data here", page)) == 1
    assert "honest optimum" in page


@pytest.mark.parametrize("render", [html.render, markdown.render])
def test_both_pages_show_it(render: Callable[..., str], make_record: Make) -> None:
    check_section(render(typed(with_block(make_record()))))


@pytest.mark.parametrize("render", [html.render, markdown.render])
def test_check_rejects_a_page_without_it(render: Callable[..., str], make_record: Make) -> None:
    for record in (make_record(), make_record() | {"benchmark": None}):
        assert "LUME (x)" not in render(typed(record))
        with pytest.raises(AssertionError):
            check_section(render(typed(record)))


def test_missing_is_never_a_number(make_record: Make) -> None:
    found = benchmark.section(typed(with_block(make_record())).benchmark)
    assert found is not None
    lines = {line[0]: line[1:] for table in found.tables for line in table.lines}
    assert lines["final"] == lines["MMLU"] == ("missing", "missing")
    assert found.tables[0].headers == ("Score", "Original", "Unlearned")


def test_reasons_are_escaped(make_record: Make) -> None:
    assert "<script>" not in scriptless(html.render(typed(with_block(make_record(), HOSTILE))))
    page = markdown.render(typed(with_block(make_record(), HOSTILE)))
    assert "<script>" not in page and "**bold**" not in page


def test_lead_depends_on_the_retrained_model(make_record: Make) -> None:
    record = with_block(make_record())
    without = benchmark.section(typed(record).benchmark)
    record["benchmark"]["models"]["retrained"] = official(0.9, {"missing": "x"})
    given = benchmark.section(typed(record).benchmark)
    assert without is not None and given is not None
    assert without.lead.startswith("No retrained model") and given.lead.startswith("The retrained model")
