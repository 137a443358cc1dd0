"""An adapter in, an adapter out: over the same base, which stays bit for bit, and served by plain transformers + peft."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import expunge
from expunge import cli, record
from expunge.deliver import GIVEN_ADAPTER, OWN_ADAPTER
from e2e import adapters

QUICK = {"replay_texts": 16, "replay_tokens": 12, "steps": 12, "learning_rate": 3e-3, "forget_rows": 6}
IDS = torch.tensor([[0, 40, 41, 42, 43, 1]])


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: record.file_hash([file]) for file in sorted(folder.iterdir())}


def served(base: Path, adapter: Path) -> Any:
    """As a user serves it: plain transformers and peft."""
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), adapter).eval()


def unlearn(adapter: Path, folder: Path, **settings: Any) -> Any:
    rows = adapters.write_rows(folder)
    usual = {"model": str(adapter), "output": str(folder / "out"), "options": QUICK, "force": True, "device": "cpu"}
    return expunge.unlearn(**rows | usual | settings)


@pytest.mark.parametrize("family", adapters.TARGETS)
def test_adapter_in_adapter_out(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adapter = adapters.make(tmp_path, family)
    before = {name: hashes(tmp_path / name) for name in ("base", "adapter")}
    run = unlearn(adapter, tmp_path)
    assert {name: hashes(tmp_path / name) for name in ("base", "adapter")} == before
    given, made = (json.loads((folder / "adapter_config.json").read_text()) for folder in (adapter, run.output))
    assert made == given
    old, new = (load_file(folder / "adapter_model.safetensors") for folder in (adapter, run.output))
    assert {name: (t.shape, t.dtype) for name, t in old.items()} == {name: (t.shape, t.dtype) for name, t in new.items()}
    assert all(not torch.equal(old[name], new[name]) for name in old)
