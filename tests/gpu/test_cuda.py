"""The whole path on a GPU: run `python -m pytest tests/gpu` on a machine that has one.

Skipped, with the reason, where torch sees no CUDA device.
"""

from pathlib import Path

import pytest
import torch

import expunge
from expunge.demo.models import World, make_models

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")


@pytest.mark.parametrize("subspace", ["full", "lora"])
def test_forgets_and_keeps_on_a_gpu(subspace: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under bfloat16 autocast: forget rows go, retain rows stay, and peak memory is recorded."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    make_models(tmp_path, World(seed=3), print)
    run = expunge.unlearn(
        model=str(tmp_path / "original"),
        output=str(tmp_path / "out"),
        device="cuda",
        subspace=subspace,
        **{role: str(tmp_path / f"{role}.jsonl") for role in ("forget", "retain", "holdout")},
    )
    scores = {(s.metric, s.set, s.model): s.value for s in run.record.scores}
    assert scores["knowledge", "forget", "unlearned"] <= 0.1
    assert scores["knowledge", "retain", "unlearned"] >= 0.95
