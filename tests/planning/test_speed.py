"""Rates are timed at powers of two and once for each, so that a plan for all methods takes little longer."""

import pytest

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
        return Rates(1.0, 1.0, 1.0, 1.0)

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
