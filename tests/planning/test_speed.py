"""Rates are timed at powers of two and once for each, so that a plan for all methods takes little longer."""

import pytest
import torch

from expunge.planning import speed
from expunge.planning.speed import Rates, Speed
from expunge.runs.distributed import Runtime
from problems import text_model


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Windows and tokens of what was timed."""
    shapes: list[tuple[int, int]] = []

    def noted(model: object, moved: object, windows: int, tokens: int, runtime: object) -> Rates:
        shapes.append((windows, tokens))
        return Rates(1.0, 1.0, 1.0)

    monkeypatch.setattr(speed, "_timed", noted)
    return shapes


def test_shapes_that_are_alike_are_timed_once(timed: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch) -> None:
    found = Speed(text_model(width=32, layers=3, context=64).config, Runtime("cpu"), False)
    for windows, tokens in ((30, 40), (33, 35), (24, 44)):
        found.rates("full", windows, tokens)
    assert timed == [(32, 32)]
    found.rates("lora", 32, 32)
    found.rates("a pattern", 32, 32)  # is timed as full weights are
    found.rates("full", 8, 4000)
    assert timed == [(32, 32), (32, 32), (8, 512)]
    monkeypatch.setattr(speed, "MOST_FLOPS", 0.0)
    found.rates("full", 30, 100)
    assert timed[-1] == (1, 128), "no more windows than one timed pass may have"


def test_texts_are_timed_beside_the_nearest_number_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """In logarithms: 2 is nearer to 1 than to 8, 3 to 8, and 22 to 8. What is counted is the tokens after the first."""
    made: list[tuple[int, int]] = []

    def noted(model: object, prompts: torch.Tensor, attention: object, end: object, tokens: int) -> None:
        made.append((len(prompts), tokens))
        _ = torch.ones(len(prompts), 1) @ torch.ones(1, tokens)  # 2 FLOPs for each token

    monkeypatch.setattr(speed.generation, "generate", noted)
    monkeypatch.setattr(speed.generation, "check", lambda path, model: None)
    monkeypatch.setattr(speed, "_seconds", lambda work, device: 1.0 + 0.5 * (made[-1][1] - 1))
    found = Speed(text_model(width=32, layers=3, context=64).config, Runtime("cpu"), False)
    assert [found.going_on(count) for count in (1, 2, 3, 8, 22, 23, 200)] == [1 * 4.0] * 2 + [8 * 4.0] * 3 + [
        64 * 4.0
    ] * 2
    assert set(made) == {(count, tokens) for count in speed.TOGETHER for tokens in (1, 1 + speed.NEW)}
