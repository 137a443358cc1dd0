"""Attacks of benchmarks/attacks.py: halves that keep people together, cells that are gone on with."""

from pathlib import Path

import torch

from attacks import DEALINGS, Dealing, quantised, table
from expunge.influence.durable import exchanges
from expunge.problem import Split
from in_memory import Cells, seen
from problems import mixed, model_of, problem_of, rows_of, split_of


def test_a_rounded_model_is_another_one_and_the_first_stays() -> None:
    problem = problem_of(model_of("llama"))
    before = problem.snapshot()
    made = quantised(problem, 4)
    moved = [name for name, tensor in made.movable.items() if not torch.equal(tensor, before[name])]
    assert moved and all("proj" in name for name in moved)
    assert all(torch.equal(tensor, before[name]) for name, tensor in problem.movable.items())


def test_halves_keep_people_together_and_are_no_durable_round_s() -> None:
    rows = rows_of("forget", [str(n) for n in range(20)])
    split = Split("forget", rows, split_of("forget", [1] * 20).windows)
    for dealing in (*DEALINGS, Dealing("people", 5, 1)):
        one, other = dealing.halves(split)
        assert sorted(one + other) == list(range(20)) and len(one) == len(other) == 10
        if dealing.together == 5:
            assert len({place // 5 for place in one}) == 2
        for number in range(3):
            assert sorted(one) not in (exchanges(rows, number)[0].relearned, exchanges(rows, number)[1].relearned)


def test_what_is_seen_of_rows() -> None:
    """A model that says anything with the same chance has a loss of about log V, and knows no answer."""
    problem = mixed()
    for tensor in problem.model.parameters():
        tensor.data.zero_()
    figures = seen(problem, problem.splits["forget"]).figures()
    assert figures["documents"] is not None and abs(figures["documents"] - 5.5529) < 1e-3  # log 258
    assert figures["known"] == 0


def test_cells_are_gone_on_with(tmp_path: Path) -> None:
    cells = Cells(tmp_path / "cells.jsonl")
    for world, known in (("a", 0.2), ("b", 0.4)):
        cells.add(world=world, model="m", attack="written", dealing=None, documents=1.0, answers=2.0, known=known)
    again = Cells(tmp_path / "cells.jsonl")
    assert again.has(world="a", attack="written") and not again.has(world="c")
    assert "| m | written | 1.00 (1.00 to 1.00) | 2.00 (2.00 to 2.00) | 0.30 (0.20 to 0.40) |" in table(again)
