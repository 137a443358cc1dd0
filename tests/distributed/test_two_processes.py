"""Two processes find what one does, in float64 to 1e-9; broken variants are rejected by the same comparison."""

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from distributed import cases, pairs
from distributed.cases import broken, commands, sound
from expunge import registry
from problems import METHODS

TOLERANCE = 1e-9


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Findings of both processes."""
    folder = tmp_path_factory.mktemp("pair")
    for done in pairs.run(cases.main, [folder], folder):
        assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"found-{rank}.pt") for rank in (0, 1)]


@cache
def of_one(name: str) -> dict[str, Any]:
    """What one process finds, once for the case and its broken variants."""
    return sound()[name]()


def same(found: dict[str, Any], expected: dict[str, Any], tolerance: float = TOLERANCE) -> bool:
    """Whether two findings hold the same names and values; numbers to the tolerance, relative to each one's largest."""
    return found.keys() == expected.keys() and all(_near(found[key], expected[key], tolerance) for key in expected)


def _near(value: Any, expected: Any, tolerance: float) -> bool:
    if isinstance(expected, torch.Tensor):
        scale = max(1e-12, float(expected.abs().nan_to_num().max()))
        return value.shape == expected.shape and torch.allclose(
            value, expected, rtol=0, atol=tolerance * scale, equal_nan=True
        )
    if isinstance(expected, float):
        return value == pytest.approx(expected, rel=tolerance, abs=1e-12)
    return bool(value == expected)


@pytest.mark.parametrize("name", list(sound()))
def test_two_processes_equal_one(name: str, pair: list[dict[str, Any]]) -> None:
    expected = of_one(name)
    assert expected
    first, second = (found[name] for found in pair)
    wrong = [key for key in expected if key not in first or not _near(first[key], expected[key], TOLERANCE)]
    assert same(first, expected), wrong[:5]
    assert same(second, first, tolerance=0.0)  # both go on with the same bits, else they would part


@pytest.mark.parametrize("name", list(broken()))
def test_broken_variants_are_rejected(name: str, pair: list[dict[str, Any]]) -> None:
    expected = of_one(name.split("/")[0])
    assert not same(pair[0][name], expected, tolerance=1e-3)


def test_retrain_and_evaluate_share_their_work(
    pair: list[dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float32, whose rounding the training carries on: to 1 in 1,000. The twin from the cache is the same twice."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    expected = commands(tmp_path)
    first, second = (found["commands"] for found in pair)
    assert same(first, expected, tolerance=1e-3)
    assert same(second, first, tolerance=0.0)
    assert first["twin 0"] == first["twin 1"] != first["twin 2"]


def test_every_method_and_curvature_is_among_the_cases() -> None:
    entries = {f"method {name}" for name in METHODS} | {f"curvature {name}" for name in registry.names("curvatures")}
    assert entries <= sound().keys()
