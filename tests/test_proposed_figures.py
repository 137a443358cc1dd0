"""What a method that proposes leaves behind is what the report reads: every figure found, no text of rows."""

import json
from dataclasses import fields
from pathlib import Path

import torch

from expunge import comparison, record
from expunge.apply import apply
from expunge.reporting import clipping, proposals
from test_conformance import problem_of, short

MAY_LACK = {"refused", "warning"}


def test_the_report_finds_every_figure_of_a_run(tmp_path: Path) -> None:
    problem = problem_of("full")
    torch.manual_seed(0)
    outcome = apply(short("libu"), problem, lambda entry: None)
    record.write_json(tmp_path / "run.json", {"proposals": outcome.proposals, "notes": outcome.notes})
    kept = (tmp_path / "run.json").read_text(encoding="utf-8")
    content = json.loads(kept)
    (one,) = proposals.read(content["proposals"])
    empty = {field.name for field in fields(one) if getattr(one, field.name) in (None, "")}
    assert empty <= MAY_LACK, "a figure that was renamed in the entry would be lost on the page"
    assert None not in (one.forget.predicted, one.retain.predicted, one.retain_kl.predicted, one.retain.measured)
    assert clipping.read(content["notes"]["sophia"]), "six steps with a refresh every ten are checked once"
    assert "words long" not in kept and not any(row.completion in kept for row in problem.splits["forget"].rows[8:])


def test_a_cell_keeps_numbers_of_the_notes_only() -> None:
    notes = {"damping": 0.1, "examples": 9, "warning": "words", "rows": ["words"], "options": {"a": "words"}}
    entry = {"phase": "removal", "step": None, "refused": "why", "measured": None, "notes": notes}
    kept = comparison._figures(entry)
    assert kept == entry | {"notes": {"damping": 0.1, "examples": 9}} and len(notes) == 5
    (one,) = proposals.read([kept])
    assert one.damping == 0.1 and one.refused == "why" and not one.taken
