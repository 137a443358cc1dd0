"""Shares of training rows in what is known of others, against dense matrices in float64 and by hand."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dense_dual import Made
from expunge.influence import ranking
from expunge.influence.needs import Tokens
from expunge.influence.ranking import shares

KINDS = ["llama", "gpt2", "opt", "lora llama"]


def made(kind: str) -> Made:
    found = Made(kind)
    counts = torch.tensor([window.targets for window in found.split.windows])
    owners = torch.tensor([window.row for window in found.split.windows])
    own = torch.zeros(len(found.split.rows), dtype=torch.long).index_add(0, owners, counts)
    found.shares = (1 / own[owners.repeat_interleave(counts)]).double()  # the mean over a row's targets
    return found


def expected(found: Made) -> Tensor:
    """Of each row of the split for each other, from J and C as they are."""
    gram = found.jacobian() @ torch.linalg.solve(found.metric(), found.jacobian().T)
    squares = gram.diagonal()
    return gram / (squares + ranking.DAMPING * squares.mean())


def check(found: Made, monkeypatch: pytest.MonkeyPatch, together: int = 2, whitening: Any = None) -> None:
    monkeypatch.setattr(ranking, "TOGETHER", together)
    asked = found.split.of([1, 3], "asked")
    table = shares(found.problem, asked, found.split, whitening or found.whitening)
    wanted = expected(found)[[1, 3]]
    assert table.shape == wanted.shape and torch.allclose(table, wanted, rtol=1e-6, atol=1e-9)
    assert table.argmax(dim=1).tolist() == [1, 3]  # a row depends on itself


@pytest.mark.parametrize("kind", KINDS)
def test_shares_are_the_dense_ones(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check(made(kind), monkeypatch)
    check(made(kind), monkeypatch, together=64)


@pytest.mark.parametrize("wrong", ["losses", "sums over tokens", "no metric"])
def test_mistakes_are_seen(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    found = made("llama")
    if wrong == "losses":
        monkeypatch.setattr(
            "expunge.influence.margin_pairs.margin_cotangent",
            lambda logits, ids: torch.nn.functional.one_hot(ids, logits.shape[1]) - logits.softmax(1),
        )
    if wrong == "sums over tokens":
        monkeypatch.setattr(Tokens, "shares", lambda tokens: tokens.weights)
    other = Made("llama", "plain").whitening if wrong == "no metric" else found.whitening
    with pytest.raises(AssertionError):
        check(found, monkeypatch, whitening=other)
