"""Influences of training rows, against dense matrices in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dense_dual import Made
from expunge.influence import ranking
from expunge.influence.ranking import influences
from expunge.model.losses import margins
from expunge.problem import Split

KINDS = ["llama", "gpt2", "opt", "lora llama"]
ASKED = [1, 3]


def gradients(found: Made, figure: Any) -> Tensor:
    """[n, P] of a figure(logits [N, V], ids [N]) of each row, window by window, unpadded, by ordinary autograd."""
    weights = [found.problem.movable[name] for name in found.layers]
    rows = [[torch.zeros_like(weight) for weight in weights] for _ in found.split.rows]
    for window in found.split.windows:
        logits = found.problem.model(input_ids=torch.tensor([window.ids]), use_cache=False).logits[0]
        places = [place for place, counts in enumerate(window.counted) if counts]
        value = figure(logits[[place - 1 for place in places]], torch.tensor([window.ids[place] for place in places]))
        made = torch.autograd.grad(value, weights, allow_unused=True)
        for total, part in zip(rows[window.row], made, strict=True):
            total += 0 if part is None else part
    flat = [found.flat(dict(zip(found.layers, parts, strict=True))) for parts in rows]
    return torch.stack(flat)


def targets(split: Split) -> Tensor:
    owners = torch.tensor([window.row for window in split.windows for _ in range(window.targets)])
    return torch.bincount(owners).double()


def expected(found: Made) -> Tensor:
    """- grad M_q' C^-1 grad L_z / N with C as it is."""
    margin = gradients(found, lambda logits, ids: margins(logits, ids).sum()) / targets(found.split)[:, None]
    loss = gradients(found, lambda logits, ids: torch.nn.functional.cross_entropy(logits, ids, reduction="sum"))
    return -margin[ASKED] @ torch.linalg.solve(found.metric(), loss.T) / targets(found.split).sum()


def check(found: Made, monkeypatch: pytest.MonkeyPatch, together: int = 2, whitening: Any = None) -> None:
    monkeypatch.setattr(ranking, "TOGETHER", together)
    table = influences(found.problem, found.split.of(ASKED, "asked"), found.split, whitening or found.whitening)
    wanted = expected(found)
    assert table.shape == wanted.shape == (2, 4) and torch.allclose(table, wanted, rtol=1e-6, atol=1e-12)
    assert all(float(table[place, own]) > 0 for place, own in enumerate(ASKED))  # a row is known from itself


@pytest.mark.parametrize("kind", KINDS)
def test_influences_are_the_dense_ones(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(Made(kind), monkeypatch)
    check(Made(kind), monkeypatch, together=64)


@pytest.mark.parametrize("wrong", ["rising margin", "sum of margins", "mean loss", "no metric"])
def test_mistakes_are_seen(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Made("llama")
    margin, loss = ranking.falling_margin, ranking.summed_loss
    if wrong == "rising margin":
        monkeypatch.setattr(ranking, "falling_margin", lambda *given: -margin(*given))
    if wrong == "sum of margins":
        monkeypatch.setattr(ranking, "falling_margin", lambda logits, ids, own: margin(logits, ids, own) * own[:, None])
    if wrong == "mean loss":
        monkeypatch.setattr(ranking, "summed_loss", lambda logits, ids, own: loss(logits, ids, own) / own[:, None])
    other = Made("llama", "plain").whitening if wrong == "no metric" else found.whitening
    with pytest.raises(AssertionError):
        check(found, monkeypatch, whitening=other)
