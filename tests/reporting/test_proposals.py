"""Proposed steps and Sophia's checks, a table on the pages: figures, refusals; nothing where a record has none."""

import json
import math

import msgspec
import pytest

from expunge.reporting import html, markdown, proposals, provenance
from expunge.reporting.record import Proposal
from html_pages import FORBIDDEN, Page, outside, scriptless, typed, words


def figures(*entries, sophia=None):
    """The lines by their headers."""
    taken = [msgspec.convert(entry, Proposal) for entry in entries]
    return [dict(zip(proposals.HEADERS, line, strict=True)) for line in proposals.lines(taken, sophia)]


def test_a_record_without_proposals_has_no_such_table(make_record):
    for render in (html.render, markdown.render):
        plain = render(typed(make_record()))
        assert proposals.TITLE not in plain
        empty = make_record()
        empty["method"] |= {"proposals": []}
        empty["method"]["notes"] |= {"sophia": []}
        assert render(typed(empty)) == plain
        assert proposals.TITLE not in render(typed(make_record(command="evaluate")))


def check_every_figure(line):
    assert line == {
        "Proposal": "1 removal",
        "Step": "0.5",
        "Norm of the direction": "3.5",
        "Change of forget loss": "+1.200 (predicted +1.000)",
        "Change of retain loss": "+0.060 (predicted +0.030)",
        "Change of retain KL": "+0.050 (predicted +0.040)",
        "Damping": "0.00021",
        "Cosine": "0.62",
        "Measurements": "9",
    }


def test_a_line_holds_every_figure(make_proposal):
    check_every_figure(*figures(make_proposal()))


@pytest.mark.parametrize(
    "path",
    ["phase", "step", "direction_norm", "measurements", "retain_kl", "notes.damping", "notes.cosine"]
    + [f"{part}.{name}" for part in ("measured", "predicted") for name in proposals.CHANGES],
)
def test_the_check_rejects_a_figure_that_was_renamed(make_proposal, path):
    entry = make_proposal()
    outer, _, name = path.rpartition(".")
    inner = entry[outer] if outer else entry
    inner[f"{name}_now"] = inner.pop(name)
    with pytest.raises((AssertionError, msgspec.ValidationError)):  # notes are open, all else is refused
        check_every_figure(*figures(entry))


@pytest.mark.parametrize("render", [html.render, markdown.render])
def test_both_pages_show_steps_refusal_and_sophia(stepped_record, render):
    page = render(typed(stepped_record))
    text = words(page) if render is html.render else page
    for part in (
        "3 removal",
        "refused: even a step of 1e-09 is outside the budget",
        "damping 0.5 drowns the curvature",
        "+1.100 (predicted +1.000)",
        "+0.045 (no forecast)",
        "unclipped: first 29 %, median 32 %, last 38 %; within 10 to 50 % at 6 of 8 checks",
    ):
        assert part in text, part
    assert "99 %" not in text, "the probe's checks are left out"
    assert not FORBIDDEN.search(page) and not outside(page)
    assert render(typed(json.loads(json.dumps(stepped_record)))).encode() == page.encode()


def test_the_table_can_be_read_without_seeing_it(stepped_record):
    page = Page(html.render(typed(stepped_record)))
    assert len([tag for tag, _ in page.attributes if tag == "svg"]) == 5, (
        "balance, a curve, losses, iterations, training"
    )
    assert [found for _, found in page.attributes if found.get("aria-label") == proposals.TITLE]
    assert all("scope" in found for tag, found in page.attributes if tag == "th")


def test_a_refused_step_changed_nothing(make_proposal):
    (line,) = figures(make_proposal(step=None))
    assert line["Step"] == "refused: even a step of 1e-09 is outside the budget"
    assert (line["Change of forget loss"], line["Change of retain loss"], line["Change of retain KL"]) == ("none",) * 3
    assert line["Norm of the direction"] == "3.5" and line["Measurements"] == "9"


def test_a_forecast_of_the_kl_holds_for_the_first_step_only(make_proposal):
    later = make_proposal(retain_kl={"before": 0.05, "after": 0.1})
    first, second = figures(make_proposal(), later)
    assert first["Change of retain KL"] == "+0.050 (predicted +0.040)"
    assert second["Change of retain KL"] == "+0.050 (no forecast)"


def test_changes_have_signs_and_missing_forecasts_are_said(make_proposal):
    entry = make_proposal()
    entry["measured"]["forget"], entry["predicted"]["retain"] = -0.3, None
    (line,) = figures(entry)
    assert line["Change of forget loss"] == "-0.300 (predicted +1.000)"
    assert line["Change of retain loss"] == "+0.060 (no forecast)"


def test_numbers_that_are_missing_or_not_finite_give_a_page(make_record, make_proposal):
    broken = make_proposal(measured={"forget": None, "retain": None, "retain_kl": None}, predicted=None, notes={})
    refused = make_proposal(step=math.nan, direction_norm=math.nan, measured={})
    record = make_record()
    record["method"]["proposals"] = [broken, refused]
    record["method"]["notes"]["sophia"] = [{"unclipped": None, "step": 3}, {"unclipped": math.nan, "step": 5}]
    for render in (html.render, markdown.render):
        page = render(typed(record))
        assert proposals.TITLE in page and "unclipped:" not in page
        assert ">nan" not in page and "None " not in page.replace("None of the", "")


def test_text_among_the_notes_does_not_reach_a_page(stepped_record):
    for entry in stepped_record["method"]["proposals"]:
        entry["notes"] |= {"row": "SECRET", "cosine": "SECRET", "examples": "SECRET"}
    stepped_record["method"]["notes"]["sophia"][-1] |= {"row": "SECRET", "phase": "SECRET"}
    for render in (html.render, markdown.render):
        assert "SECRET" not in render(typed(stepped_record))


def test_hostile_words_stay_text(stepped_record, hostile):
    entry = stepped_record["method"]["proposals"][2]
    entry |= {"phase": hostile, "refused": hostile}
    entry["notes"] |= {"warning": hostile}
    page = html.render(typed(stepped_record))
    assert "<script" not in scriptless(page) and "script" not in Page(page).tags and "\u202e" not in page
    assert "".join(Page(page).text).count("<script>alert('x')</script>") == 3, "each of them is shown, as text"
    found = markdown.render(typed(stepped_record))
    assert "<script" not in found and "\u202e" not in found
    assert len([line for line in found.splitlines() if line.startswith("| 3 ")]) == 1


@pytest.mark.parametrize(
    ("unclipped", "part"),
    [
        ([0.1, 0.5], "first 10 %, median 30 %, last 50 %; within 10 to 50 % at 2 of 2 checks"),
        ([0.0, 0.02, 0.3], "first 0 %, median 2 %, last 30 %; within 10 to 50 % at 1 of 3 checks"),
        ([0.7, None, 0.3], "first 70 %, median 50 %, last 30 %; within 10 to 50 % at 1 of 2 checks"),
    ],
)
def test_sophia_has_a_line(make_sophia, unclipped, part):
    (line,) = figures(sophia=make_sophia(unclipped))
    assert line["Proposal"] == "Sophia" and line["Step"] == f"unclipped: {part}"


def test_lists_of_checks_are_not_printed_among_the_notes(stepped_record):
    (notes,) = [table for table in provenance.tables(typed(stepped_record)) if table.title == "Notes of the method"]
    assert not any("sophia" in line[0] for line in notes.lines) and notes.lines
