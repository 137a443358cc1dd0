"""Proposed steps and Sophia's checks on the pages: figures, refusals, words; nothing where a record has none."""

import json
import math

import pytest

from expunge.reporting import clipping, forecasts, html, markdown, proposal_plots, proposals, provenance
from html_pages import FORBIDDEN, OUTSIDE, Page, words

TWICE = "The loss of rows to keep rose by 0.060 nats per token, 2.0 times what the curvature predicted (+0.030)."


def said(*entries):
    return " ".join(forecasts.sentences(proposals.read(entries)))


def test_a_record_without_proposals_has_no_such_sections(make_record):
    for render in (html.render, markdown.render):
        plain = render(make_record())
        assert proposals.TITLE not in plain and clipping.TITLE not in plain
        empty = make_record()
        empty["method"] |= {"proposals": []}
        empty["method"]["notes"] |= {"sophia": []}
        assert render(empty) == plain
        assert proposals.TITLE not in render(make_record(command="evaluate"))


def test_a_line_holds_every_figure(make_proposal):
    (line,) = proposals.lines(proposals.read([make_proposal()]))
    found = dict(zip(proposals.HEADERS, ((cell.value, cell.details) for cell in line), strict=True))
    assert found == {
        "Proposal": ("1", ("removal",)),
        "Step": ("0.5", ("largest within 0.1 of retain KL", "9 measurements")),
        "Damping": ("0.00021", ("mean curvature 0.0021",)),
        "Forget loss": ("+1.200", ("predicted +1.000",)),
        "Retain loss": ("+0.060", ("predicted +0.030",)),
        "Retain KL": ("+0.050", ("predicted +0.040",)),
        "Cosine": ("0.62", ("in the metric 0.11",)),
        "Curvature fitted on": ("diagonal, noise labels", ("225 examples, 7,000 tokens",)),
    }


@pytest.mark.parametrize("render", [html.render, markdown.render])
def test_both_pages_show_steps_refusal_and_sophia(stepped_record, render):
    page = render(stepped_record)
    text = words(page) if render is html.render else page
    for part in (
        "2 of the 3 proposed steps were taken, with 0.095 nats per token of retain KL where 0.100 was allowed.",
        "Proposal 3 (removal) was refused because even a step of 1e-09 is outside the budget.",
        "In proposal 3: damping 0.5 drowns the curvature",
        "no forecast",
        "no step",
        "At 6 of 8 checks (75 %) between 10 and 50 % of the coordinates were unclipped; the median is 32 %.",
        "1 of them lies below",
    ):
        assert part in text, part
    assert not FORBIDDEN.search(page) and not OUTSIDE.search(page)
    assert render(json.loads(json.dumps(stepped_record))).encode() == page.encode()


def test_the_drawings_can_be_read_without_seeing_them(stepped_record):
    page = Page(html.render(stepped_record))
    labels = [found["aria-label"] for tag, found in page.attributes if tag == "svg"]
    assert len(labels) == 4
    (steps,) = [label for label in labels if label.startswith("Changes by proposed steps")]
    first = "1 forget +1.200 (predicted +1.000), retain +0.060 (predicted +0.030), retain KL 0.050 of 0.100"
    assert first in steps and steps.endswith("3 refused.")
    (shares,) = [label for label in labels if label.startswith("Share of coordinates")]
    assert "from 6 % to 52 %, median 32 %, 6 within 10 to 50 %" in shares, "the probe's 99 % is left out"
    names = [found["id"] for _, found in page.attributes if "id" in found]
    assert len(names) == len(set(names))
    assert all("scope" in found for tag, found in page.attributes if tag == "th")


@pytest.mark.parametrize(
    ("measured", "predicted", "part"),
    [
        (0.06, 0.03, TWICE + " A forecast holds near"),
        (0.06, 0.05, "rose by 0.060 nats per token, about what the curvature predicted (+0.050)."),
        (0.02, 0.08, "rose by 0.020 nats per token, 0.25 times what the curvature predicted (+0.080)."),
        (-0.02, 0.08, "fell by 0.020 nats per token, where the curvature predicted +0.080."),
        (0.0004, 0.08, "hardly changed (+4.0e-04 nats per token), where the curvature predicted +0.080."),
        (0.06, None, "The loss of rows to keep rose by 0.060 nats per token."),
    ],
)
def test_measured_against_predicted_in_words(make_proposal, measured, predicted, part):
    entry = make_proposal()
    entry["measured"]["retain"], entry["predicted"]["retain"] = measured, predicted
    assert part in said(entry)
    overrun = predicted is not None and measured > 1.5 * predicted
    assert (forecasts.OUTGROWN in said(entry)) == overrun


def test_a_forecast_that_one_step_lacks_is_not_summed(make_proposal):
    first, second = make_proposal(), make_proposal()
    assert "rose by 2.400 nats per token, about what the gradient predicted (+2.000)" in said(first, second)
    second["predicted"]["forget"] = None
    assert "The loss of the rows to forget rose by 2.400 nats per token." in said(first, second)


def test_a_step_that_teaches_the_rows_is_called_so(make_proposal):
    entry = make_proposal()
    entry["measured"]["forget"] = -0.3
    assert "know the rows better, the opposite of forgetting" in said(entry)
    assert "opposite of forgetting" not in said(make_proposal())


@pytest.mark.parametrize(("cosine", "part"), [(0.6, "are alike"), (-0.6, "oppose each other"), (0.1, "independent")])
def test_cosines_in_words(make_proposal, cosine, part):
    entry = make_proposal()
    entry["notes"]["cosine"] = cosine
    assert part in said(entry) and f"(cosine {cosine:.2f})" in said(entry) and "the cosine is 0.11" in said(entry)


def test_a_run_whose_only_step_was_refused(make_proposal, make_record):
    entry = make_proposal(step=None)
    assert said(entry).startswith("The proposed step was not taken")
    assert "rose" not in said(entry) and proposal_plots.changes(proposals.read([entry])) is None
    record = make_record()
    record["method"]["proposals"] = [entry]
    page = html.render(record)
    assert "~</span> refused" in page and "even a step of 1e-09" in page


def test_a_forecast_of_the_kl_holds_for_the_first_step_only(make_proposal):
    later = make_proposal(retain_kl={"before": 0.05, "after": 0.1})
    first, second = proposals.read([make_proposal(), later])
    assert first.retain_kl.predicted == 0.04 and second.retain_kl.predicted is None
    assert second.retain_kl.measured == 0.05


def test_a_budget_of_loss_is_compared_with_the_rise_of_loss(make_proposal):
    rule = {"name": "RetainBudget", "budget": 0.2, "unit": "loss"}
    entry = make_proposal(rule=rule, retain_rise={"before": 0.0, "after": 0.19})
    assert "0.190 nats per token of rise of the retain loss where 0.200 was allowed" in said(entry)
    assert "rise of retain loss 0.190 of 0.200" in proposal_plots.changes(proposals.read([entry])).label


def test_without_a_budget_none_is_drawn_or_named(make_proposal):
    (fixed,) = proposals.read([make_proposal(rule={"name": "Fixed", "step": 0.5})])
    plot = proposal_plots.changes((fixed,))
    assert "budget" not in plot.svg + plot.label + plot.note and "allowed" not in " ".join(forecasts.sentences([fixed]))


def test_numbers_that_are_missing_or_not_finite_give_a_page(make_record, make_proposal):
    broken = make_proposal(measured={"forget": None, "retain": None, "retain_kl": None}, predicted=None, notes={})
    record = make_record()
    record["method"]["proposals"] = [broken, {"step": math.nan}, {}]
    record["method"]["notes"]["sophia"] = [{"unclipped": None, "step": 3}, {"unclipped": math.nan, "step": 5}]
    for render in (html.render, markdown.render):
        page = render(record)
        assert proposals.TITLE in page and clipping.TITLE not in page
        assert ">nan" not in page and "None " not in page.replace("None of the", "")


def test_text_among_the_notes_does_not_reach_a_page(stepped_record):
    for entry in stepped_record["method"]["proposals"]:
        entry["notes"] |= {"row": "SECRET", "cosine": "SECRET", "examples": "SECRET"}
        entry["text"] = "SECRET"
    stepped_record["method"]["notes"]["sophia"][-1] |= {"row": "SECRET", "phase": "SECRET"}
    for render in (html.render, markdown.render):
        assert "SECRET" not in render(stepped_record)


def test_hostile_words_stay_text(stepped_record, hostile):
    entry = stepped_record["method"]["proposals"][2]
    entry |= {"phase": hostile, "refused": hostile}
    entry["notes"] |= {"curvature": hostile, "warning": hostile}
    page = html.render(stepped_record)
    assert "<script" not in page and "script" not in Page(page).tags and "\u202e" not in page
    found = proposals.of(stepped_record)
    assert "alert" not in proposal_plots.changes(found).svg + proposal_plots.changes(found).label
    rows = [line for line in markdown.render(stepped_record).splitlines() if line.startswith("| 3 ")]
    assert len(rows) == 1


def test_attempts_are_lines_of_their_own(make_sophia):
    checks = make_sophia([0.2, 0.3])
    again = [check | {"attempt": 2, "step": check["step"]} for check in checks if check["during"] != "probe"]
    one, two = clipping.read(checks), clipping.read([*checks, *again])
    assert len(one) == 2 and len(two) == 4
    assert len({check.run for check in two}) == 2 and clipping.draw(two).svg != clipping.draw(one).svg


@pytest.mark.parametrize(
    ("shares", "part"),
    [
        ([0.1, 0.5], "At 2 of 2 checks (100 %)"),
        ([0.0, 0.02, 0.3], "2 of them lie below: nearly every coordinate is clipped"),
        ([0.7, 0.3], "1 of them lies above: little is clipped"),
    ],
)
def test_the_band_in_words(make_sophia, shares, part):
    assert part in clipping.sentence(clipping.read(make_sophia(shares)))


def test_lists_of_checks_are_not_printed_among_the_notes(stepped_record):
    (notes,) = [table for table in provenance.tables(stepped_record) if table.title == "Notes of the method"]
    assert not any("sophia" in line[0] for line in notes.lines) and notes.lines
