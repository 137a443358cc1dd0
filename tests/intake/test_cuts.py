"""Rows longer than the context are cut where training cut them, or what the model knows would look unknown and stay."""

import json
import random
from pathlib import Path

import pytest

from expunge.config.commands import Unlearn
from expunge.data.rows import read
from expunge.data.tokens import Rendering
from expunge.demo.tiny import byte_tokenizer
from expunge.intake.assembly import Assembled, assemble
from expunge.intake.rendering import Cuts, cut_losses, on_cuts
from expunge.intake.sets import check
from expunge.loop.training import Training, fine_tune
from problems import TEXT_VOCABULARY, text_model

CONTEXT = 16


def assembled(folder: Path, overlap: bool, length: int = 40) -> Assembled:
    """Two documents that nobody can guess, learned by heart in windows of one cut."""
    chance = random.Random(0)
    rows = [{"text": "".join(chance.choices("0123456789abcdef", k=length))} for _ in range(2)]
    (folder / "forget.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tokenizer = byte_tokenizer([], TEXT_VOCABULARY)
    rendering = Rendering(context=CONTEXT, overlap=overlap)
    training = Training(epochs=150, learning_rate=5e-3, batch_rows=4)
    known = read(folder / "forget.jsonl", "forget").rows
    model, _ = fine_tune(text_model(context=CONTEXT), tokenizer, known, rendering, training, 0, "made")
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    config = Unlearn(model=str(folder / "model"), forget=str(folder / "forget.jsonl"))
    return assemble(config, check(config))


@pytest.mark.parametrize("overlap", [True, False])
def test_they_are_cut_as_training_did(overlap: bool, tmp_path: Path) -> None:
    found = assembled(tmp_path, overlap)
    rendering, forget = found.problem.rendering, found.problem.splits["forget"]
    assert rendering.overlap == overlap
    losses = cut_losses(found.problem, forget.rows, rendering)
    assert losses is not None
    trained, other = (losses.overlapping, losses.apart) if overlap else (losses.apart, losses.overlapping)
    assert trained < 0.3 < other
    places = [window.ids for window in forget.windows if window.row == 0]
    assert (places[1][:8] == places[0][8:]) == overlap  # the second shares half of the first
    (line,) = [line for line in found.notes if line.startswith("windows: of rows longer than 16 tokens they ")]
    assert ("overlap by half (" in line) == overlap and ("each begin where the one before ended" in line) != overlap


def test_of_short_rows_nothing_is_said(tmp_path: Path) -> None:
    found = assembled(tmp_path, True, length=10)
    assert not any(line.startswith("windows:") for line in found.notes)
    assert on_cuts(None, found.problem.rendering) == []


def test_where_both_cost_the_same_they_overlap() -> None:
    (line,) = on_cuts(Cuts(1.0, 1.0), Rendering(context=CONTEXT))
    assert "overlap by half" in line and "1.00, and 1.00" in line
