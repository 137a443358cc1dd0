"""Whether training showed what ends an answer, told from the original's losses: rows that were learned both ways."""

from dataclasses import replace

import pytest
import torch

from expunge.data.batches import collate
from expunge.data.tokens import Rendering, encode
from expunge.intake.rendering import Endings, answers_end, on_endings
from expunge.model.losses import target_nll
from expunge.problem import Problem
from problems import encoded, rows_of, text_problem

ROWS = rows_of("f", ["ok", "no", "so", "at"])


def learned(ended: bool, steps: int) -> Problem:
    """A model that learned the rows with or without an end token."""
    problem = text_problem({"forget": ROWS})
    windows = encode(ROWS, replace(problem.rendering, end_answers=ended), problem.tokenizer)
    batch = collate("forget", list(windows), list(range(len(windows))))
    optimiser = torch.optim.AdamW(problem.model.parameters(), lr=1e-2)
    for _ in range(steps):
        optimiser.zero_grad()
        target_nll(problem.model, batch).mean().backward()
        optimiser.step()
    return problem


@pytest.mark.parametrize(("ended", "steps", "never"), [(False, 60, True), (True, 60, False), (True, 0, False)])
def test_an_end_that_training_never_showed_is_told_from_its_loss(ended: bool, steps: int, never: bool) -> None:
    """Without any training an end is as likely as every other token, which says nothing, so it counts."""
    problem = learned(ended, steps)
    for rendering in (Rendering(context=64), Rendering(context=64, end_answers=False)):
        found = answers_end(problem, ROWS, rendering)
        assert found is not None and found.never_shown == never, found
        said = on_endings(found, replace(rendering, end_answers=not found.never_shown))
        assert len(said) == never and all("training never showed it" in line for line in said)
    assert encoded("forget", ROWS, problem.tokenizer).windows[0].targets == 3  # two letters and the end


def test_what_costs_little_more_than_the_rest_was_shown() -> None:
    assert not Endings(ending=3.5, own=0.6).never_shown and Endings(ending=3.7, own=0.6).never_shown
