"""Retain KL: zero for the original, the full KL for another model, nan for rows that were not kept."""

import numpy as np
import pytest
import torch

from expunge.data.batches import collate
from expunge.evaluation import divergence
from expunge.metrics.retain_kl import RetainKl
from expunge.model.losses import target_logits
from expunge.problem import Problem
from expunge.scoring.evidence import Evidence
from problems import model_of, problem_of

ROWS = (1, 1, 3, 1, 2, 5, 1)


def expected(problem: Problem, before: torch.nn.Module) -> np.ndarray:
    """sum p (log p - log q) over a row's targets, from full distributions, window by window."""
    split, sums = problem.splits["retain"], np.zeros(len(ROWS))
    for index, window in enumerate(split.windows):
        batch = collate("retain", split.windows, [index])
        with torch.no_grad():
            p = target_logits(before, batch).log_softmax(1)
            q = target_logits(problem.model, batch).log_softmax(1)
        sums[window.row] += float((p.exp() * (p - q)).sum())
    return sums


def test_rows_and_their_score(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, before = problem_of(model_of("llama")), model_of("llama")
    kept = divergence.keep(problem, {"retain": problem.splits["retain"]})
    assert np.abs(divergence.row_divergences(problem, kept["retain"], len(ROWS))).max() < 1e-6
    with torch.no_grad():
        for tensor in problem.movable.values():
            tensor += 0.2 * torch.randn_like(tensor)
    found = divergence.row_divergences(problem, kept["retain"], len(ROWS))
    assert np.allclose(found, expected(problem, before), rtol=1e-5)
    turned = found[::-1]
    assert not np.allclose(turned, expected(problem, before), rtol=0.1)  # rows mixed up would be seen
    monkeypatch.setattr(divergence, "MOST_ROWS", 3)
    some = divergence.row_divergences(problem, divergence.keep(problem_of(before), problem.splits)["retain"], len(ROWS))
    assert np.isnan(some).tolist() == [False, True, True, False, True, True, False]
    assert np.allclose(some[~np.isnan(some)], found[[0, 3, 6]], rtol=1e-5)


def test_the_mean_is_over_tokens() -> None:
    """(0.2 + 1.0) / (2 + 10) = 0.1; the mean of the rows' means would be (0.1 + 0.1) / 2 only by chance."""
    rows = type("Rows", (), {"kl": np.array([0.2, np.nan, 1.0]), "targets": np.array([2.0, 5.0, 10.0])})()
    score = RetainKl()(Evidence({"retain": rows}), "retain")
    assert score is not None and score.value == pytest.approx(0.1) and score.count == 2
    rows.kl = np.array([0.2, np.nan, 4.0])  # means 0.1 and 0.4: 4.2 / 12, not 0.25
    score = RetainKl()(Evidence({"retain": rows}), "retain")
    assert score is not None and score.value == pytest.approx(0.35)
    rows.kl = None
    assert RetainKl()(Evidence({"retain": rows}), "retain") is None
