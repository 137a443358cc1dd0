"""What is kept of the original: each window is run once, however many batches it stands in, with the losses it had."""

import pytest
import torch

from expunge.data.batches import collate
from expunge.model.losses import target_nll
from expunge.problem import Problem, Split
from expunge.reference.cache import KeptDistributions, distinct, keep_distributions, keep_each
from problems import model_of, problem_of


@pytest.fixture
def problem() -> Problem:
    return problem_of(model_of("llama"))


@pytest.fixture
def batches(problem: Problem) -> list[Split]:
    """Two draws from the same rows, some of them in both."""
    retain = problem.splits["retain"]
    return [retain.of([0, 2, 3, 5], "one"), retain.of([1, 2, 5, 6], "two")]


def check_same(found: list[KeptDistributions], problem: Problem, batches: list[Split]) -> None:
    for kept, batch in zip(found, batches, strict=True):
        alone = keep_distributions(problem, batch)
        for one, other in zip(kept.log_probs + kept.losses, alone.log_probs + alone.losses, strict=True):
            assert torch.allclose(one, other, atol=1e-5)


def test_a_window_in_two_batches_is_run_once(problem: Problem, batches: list[Split]) -> None:
    rows = []
    handle = problem.model.register_forward_pre_hook(
        lambda module, arguments, named: rows.append(len(named["input_ids"])), with_kwargs=True
    )
    found = keep_each(problem, batches)
    handle.remove()
    assert sum(rows) == len(distinct(batches)) < sum(len(batch.windows) for batch in batches)
    check_same(found, problem, batches)
    assert keep_each(problem, []) == []


def test_windows_mixed_up_would_be_seen(problem: Problem, batches: list[Split]) -> None:
    found = keep_each(problem, batches)
    mixed = found[0].at(list(range(len(batches[0].windows)))[::-1])
    with pytest.raises((AssertionError, RuntimeError)):
        check_same([mixed, found[1]], problem, batches)


def test_the_losses_are_those_of_the_targets(problem: Problem, batches: list[Split]) -> None:
    batch = batches[0]
    kept = keep_distributions(problem, batch)
    with torch.no_grad():
        alone = [
            target_nll(problem.model, collate("one", batch.windows, [place])) for place in range(len(batch.windows))
        ]
    assert all(torch.allclose(one, two.double(), atol=1e-5) for one, two in zip(kept.losses, alone, strict=True))
    assert kept.loss_per_token == pytest.approx(float(torch.cat(alone).mean()), rel=1e-5)
