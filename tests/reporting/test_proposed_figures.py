"""What a method that proposes leaves behind is what the report reads: every figure found, no text of rows."""

import json
from typing import Any

import msgspec
import torch

from expunge.comparison import cells
from expunge.files import plain_json
from expunge.loop.phases import apply
from expunge.reporting import proposals
from expunge.reporting.record import Proposal
from expunge.reporting.words import NOT_MEASURED
from problems import mixed, short
from reporting.conftest import build_proposal


def taken(entries: list[Any]) -> tuple[Proposal, ...]:
    return msgspec.convert(entries, tuple[Proposal, ...])


def test_the_report_finds_every_figure_of_a_run() -> None:
    problem = mixed()
    torch.manual_seed(0)
    outcome = apply(short("libu"), problem, lambda entry: None)
    kept = plain_json.as_text({"proposals": outcome.proposals, "notes": outcome.notes})
    content = json.loads(kept)
    one, sophia = proposals.lines(taken(content["proposals"]), content["notes"]["sophia"])
    for missing in (proposals.NONE, proposals.NO_FORECAST, NOT_MEASURED):
        assert not any(missing in cell for cell in one), "a figure that was renamed in the entry would be lost"
    assert sophia[0] == "Sophia", "six steps with a refresh every ten are checked once"
    assert "words long" not in kept and not any(row.completion in kept for row in problem.splits["forget"].rows[8:])


def test_a_cell_keeps_numbers_of_the_notes_only() -> None:
    notes = {"damping": 0.1, "examples": 9, "warning": "words", "rows": ["words"], "options": {"a": "words"}}
    entry = build_proposal(step=None, refused="why") | {"notes": notes}
    kept = cells._figures(entry)
    assert kept == taken([entry | {"notes": {"damping": 0.1, "examples": 9}}])[0] and len(notes) == 5
    (line,) = proposals.lines([kept], None)
    found = dict(zip(proposals.HEADERS, line, strict=True))
    assert found["Damping"] == "0.1" and found["Step"] == "refused: why"
