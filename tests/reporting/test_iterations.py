"""Iteration by iteration: what was planned and reached, drawn and in a table, from any record of proposals."""

import json
import math

import pytest
import torch

from expunge.errors import InputError
from expunge.loop.phases import apply
from expunge.methods import margin_newton
from expunge.reporting import html, iterations, markdown
from html_pages import FORBIDDEN, Page, outside, typed, words
from problems import mixed, short


@pytest.fixture
def steered(make_record, make_proposal):
    """Two iterations of margin_newton, two restorations between them, one of which was refused."""
    record = make_record(rows=7)
    figures = {"planned": 1.5, "needs": {"mean": 5.85, "most": 8.8}, "missed": 0.02, "dual_damping": 461.2}
    first = make_proposal(step=0.6, forget={"before": 0.02, "after": 1.22}, row_passes=66.7)
    first["notes"] |= figures
    kept = {"retain_kl": {"before": 0.05, "after": 0.02}, "forget": {"before": 1.22, "after": 1.21}}
    back = make_proposal("restoration", 0.002, predicted={"forget": None}, **kept)
    back["notes"] |= {"left_of_it": 0.96}
    gone = make_proposal("restoration", None)
    last = make_proposal(step=1.0, forget={"before": 1.21, "after": 4.8}, retain_kl={"before": 0.02, "after": 0.03})
    last["predicted"] = {"forget": 3.6}
    record["method"] |= {"steps": 3, "proposals": [first, back, gone, last]}
    return record


def check_steps(record):
    found = iterations.steps(typed(record))
    assert [(one.iteration, one.phase) for one in found] == [
        (1, "removal"), (2, "restoration"), (2, "restoration"), (2, "removal"),
    ]  # fmt: skip
    # a second iteration of three proposals: after the first a third of it is done
    assert [one.at for one in found] == pytest.approx([1, 1 + 1 / 3, 1 + 2 / 3, 2])
    assert [one.planned for one in found] == [1.5, None, 1.02, pytest.approx(1.21 + 3.6)], (
        "its notes, else the forecast"
    )
    assert [one.reached for one in found] == [1.22, 1.21, None, 4.8]


def test_steps_belong_to_iterations(steered):
    steered["method"]["proposals"][2]["predicted"] = {"forget": 1.0}  # 0.02 + 1.0
    check_steps(steered)


def test_restorations_at_the_end_belong_to_the_last_iteration(steered, make_proposal):
    kept = {"retain_kl": {"before": 0.03, "after": 0.01}, "forget": {"before": 4.8, "after": 4.7}}
    steered["method"]["proposals"] += [make_proposal("restoration", 0.002, **kept) for _ in range(2)]
    found = iterations.steps(typed(steered))
    assert [(one.iteration, one.phase) for one in found[-2:]] == [(2, "restoration"), (2, "restoration")]
    assert [one.at for one in found[-2:]] == pytest.approx([2 + 1 / 3, 2 + 2 / 3])
    assert [line[0] for line in iterations.table(typed(steered))[1]][-3:] == [
        "removal 2", "restoration 2", "restoration 2",
    ]  # fmt: skip
    drawn = iterations.draw(typed(steered))
    assert drawn is not None and "0.010 at the end" in drawn.label


@pytest.mark.parametrize("broken", ["phase", "notes", "forget", "predicted"])
def test_the_check_rejects_a_figure_that_was_renamed(steered, broken):
    steered["method"]["proposals"][2]["predicted"] = {"forget": 1.0}
    for entry in steered["method"]["proposals"]:
        entry[f"{broken}_now"] = entry.pop(broken)
    with pytest.raises(InputError, match=rf"\$\.method\.proposals\[0\].*{broken}"):
        check_steps(steered)


@pytest.mark.parametrize("broken", ["planned", "needs", "missed", "dual_damping", "left_of_it"])
def test_a_note_that_was_renamed_is_missed(steered, broken):
    whole = iterations.table(typed(steered))
    for entry in steered["method"]["proposals"]:
        entry["notes"] = {f"{name}_now" if name == broken else name: value for name, value in entry["notes"].items()}
    assert iterations.table(typed(steered)) != whole


def test_the_table_holds_every_figure(steered):
    headers, lines = iterations.table(typed(steered))
    first, back, gone, last = (dict(zip(headers, line, strict=True)) for line in lines)
    assert first == {
        "Iteration": "removal 1",
        "Step": "0.6",
        "Row passes": "67",
        "Loss planned": "1.500",
        "Loss reached": "1.220",
        "Retain KL": "0.000 to 0.050",
        "Needs: mean, most": "5.85, 8.80",
        "Missed": "2.0 %",
        "Dual damping": "461.20",
        "Direction left": "",
    }
    assert back["Direction left"] == "96 %" and back["Retain KL"] == "0.050 to 0.020" and back["Loss planned"] == ""
    assert gone["Step"] == "refused" and gone["Loss reached"] == "" and last["Loss planned"] == "4.810"


def test_columns_without_figures_are_left_out(stepped_record):
    headers, _ = iterations.table(typed(stepped_record))
    assert headers == ("Iteration", "Step", "Row passes", "Loss planned", "Loss reached", "Retain KL")


def test_the_pages_show_it(steered, make_record):
    page = html.render(typed(steered))
    drawings = [found for tag, found in Page(page).attributes if tag == "svg"]
    label = str(drawings[3]["aria-label"])
    assert len(drawings) == 4, "every step was proposed, so the drawing of training would say the same again"
    assert "iteration 1: reached 1.220, planned 1.500; iteration 2: reached 4.800, planned 4.810" in label
    assert "Target: 4.900" in label and "KL on acceptance rows: 0.030 at the end, 0.050 at most" in label
    assert "restorations (1 taken)" in words(page) and "1 proposals were refused" in words(page)
    assert f"## {iterations.TITLE}" in markdown.render(typed(steered)) and "5.85, 8.80" in markdown.render(
        typed(steered)
    )
    assert not FORBIDDEN.search(page) and not outside(page)
    assert html.render(typed(json.loads(json.dumps(steered)))).encode() == page.encode()
    for render in (html.render, markdown.render):
        assert iterations.TITLE not in render(typed(make_record())) and iterations.TITLE not in render(
            typed(make_record(rows=3, command="evaluate"))
        )


def test_no_word_of_an_entry_enters_it(steered):
    for entry in steered["method"]["proposals"]:
        entry["notes"] |= {"needs": "SECRET", "planned": "SECRET", "missed": "SECRET"}
    steered["method"]["proposals"][0]["phase"] = "SECRET"
    assert "SECRET" not in str(iterations.table(typed(steered))) + str(iterations.draw(typed(steered)))


def test_figures_that_are_missing_or_not_finite_give_a_page(steered, make_proposal):
    ends = {"before": math.inf, "after": None}
    nothing = make_proposal(step=math.nan, forget=ends, retain_kl=ends, predicted=None, notes={"needs": math.nan})
    steered["method"]["proposals"] += [nothing]
    assert (
        iterations.draw(typed(steered)) is not None and html.render(typed(steered)) and markdown.render(typed(steered))
    )
    steered["method"]["proposals"] = [nothing]
    assert iterations.draw(typed(steered)) is None and html.render(typed(steered))


@pytest.mark.parametrize("method", ["margin_newton", "fisher_removal"])
def test_the_report_finds_the_figures_of_a_run(method, make_record, monkeypatch):
    monkeypatch.setattr(margin_newton, "AT_REST", -1.0)  # so little is lost here that there would be no restoration
    torch.manual_seed(0)
    outcome = apply(short(method), mixed(), lambda entry: None)
    record = make_record(rows=3)
    record["method"] |= {"proposals": outcome.proposals, "notes": outcome.notes, "steps": outcome.steps}
    record["history"] = outcome.history
    headers, lines = iterations.table(typed(record))
    assert {"Loss reached", "Retain KL", "Row passes"} <= set(headers)
    taken = [line for line in lines if line[1] != "refused"]
    assert taken and all(line[headers.index("Row passes")] for line in lines)
    assert iterations.draw(typed(record)) is not None
    # what the entries say and what the run says are the same row passes, but for what came before the first
    assert 0 < sum(one.row_passes or 0 for one in iterations.steps(typed(record))) <= outcome.row_passes
    if method == "margin_newton":
        assert headers == iterations.HEADERS, "every number that it steers by"
