"""Attacks on cells: those on the original and on the first twin are run once, and names of rows are not kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expunge.attack import Reading
from expunge.comparison.attacking import Attacking
from expunge.evaluation import attacked
from expunge.evaluation.models import KEPT
from expunge.runs.checkpoint import Checkpoints
from expunge.scoring.seen import Seen

ROWS = 40


def seen(loss: float, known: float) -> Seen:
    return Seen(("answer",) * ROWS, np.full(ROWS, loss) + np.linspace(-0.1, 0.1, ROWS), np.full(ROWS, known))


SHOWN = {"original": seen(0.1, 1.0), "retrained": seen(5.0, 0.0), "hidden": seen(0.2, 1.0), "done": seen(5.0, 0.0)}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The models that were attacked, in place of running them: all show under rounding what `SHOWN` says."""
    made: list[Any] = []

    def run(problem: Any, judged: Any, level: str, original: Any = None, alone: bool = False) -> Any:
        made.append(problem)
        return {"rounding": [Reading("4 bits", {"forget": SHOWN[problem], "judging": SHOWN["retrained"]})]}

    monkeypatch.setattr(attacked, "run", run)
    monkeypatch.setattr(attacked, "run_beside", run)
    monkeypatch.setattr(attacked, "as_written", lambda evidence: {"forget": SHOWN["original"]})
    return made


def attack(folder: Path, level: Any = "full", twin: bool = True) -> Attacking:
    load: dict[str, Any] = {"original": lambda: "original"} | ({"retrained": lambda: "retrained"} if twin else {})
    names = [f"forget.jsonl:{place}" for place in range(ROWS)]
    return Attacking(level, {}, load, names, Checkpoints(folder, KEPT), "key of these cells")


@pytest.mark.parametrize("twin", [True, False])
def test_each_reference_once_and_kept(runs: list[Any], tmp_path: Path, twin: bool) -> None:
    made, others = attack(tmp_path, twin=twin), ["original", "retrained"] if twin else ["original"]
    for model, word, back in (("hidden", "comes back", ROWS), ("done", "forgotten", 0)):
        (result,) = made.results(model, {"original": None})  # type: ignore[arg-type, dict-item]
        assert (result.title, result.verdict) == ("rounding", word)
        assert result.settings[0].given_back == back and "forget.jsonl" not in str(result)
    assert runs == ["hidden", *others, "done"]
    again = attack(tmp_path, twin=twin)  # after an interruption
    assert again.results("done", {"original": None})[0].verdict == "forgotten"  # type: ignore[arg-type, dict-item]
    assert runs == ["hidden", *others, "done", "done"]


def test_nothing_at_level_quick(runs: list[Any], tmp_path: Path) -> None:
    assert attack(tmp_path, "quick").results("done", {}) == () and not runs  # type: ignore[arg-type]
