"""Adapters as plain transformers and peft serve them, beside what a record says of them."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from expunge.files import hashing
from expunge.loop import trial
from expunge.reporting import html


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots and samples of the original's own text are not what is tested here, and take most of the time."""
    monkeypatch.setattr(html, "render", lambda *_: "")
    monkeypatch.setattr(trial, "SAMPLES", 4)
    monkeypatch.setattr(trial, "SAMPLE_TOKENS", 8)


def hashes(folder: Path) -> dict[str, str]:
    return {file.name: hashing.file_hash([file]) for file in sorted(folder.iterdir())}


def plain(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).eval()


def served(base: Path, adapter: Path) -> Any:
    """As a user serves it: plain transformers and peft."""
    return PeftModel.from_pretrained(plain(base), adapter).eval()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter_model.safetensors")


@torch.no_grad()
def loss_of(model: Any, tokenizer: Any, file: Path, line: int) -> float:
    """Mean loss of a row's completion and EOS, worked out here."""
    row = json.loads(file.read_text(encoding="utf-8").splitlines()[line])
    start = len(tokenizer(row["prompt"] + " ")["input_ids"])  # one token a byte
    ids = tokenizer(row["prompt"] + " " + row["completion"])["input_ids"] + [tokenizer.eos_token_id]
    logits = model(torch.tensor([ids])).logits[0, :-1]
    losses = torch.nn.functional.cross_entropy(logits.float(), torch.tensor(ids[1:]), reduction="none")
    return float(losses[start - 1 :].mean())


def check_seen(model: Any, run: Any, name: str, folder: Path) -> None:
    """The record's losses under `name` are those of a model that was loaded without expunge."""
    tokenizer = AutoTokenizer.from_pretrained(run.output)
    for line, row in enumerate(run.record.rows):
        seen = loss_of(model, tokenizer, folder / "forget.jsonl", line)
        assert seen == pytest.approx(row.loss[name], rel=1e-3), (name, line)


def check_same_kind(given: Path, made: Path) -> None:
    """Same settings, names, shapes and dtypes; every tensor moved but the base's own that were put beside them."""
    assert settings_of(made) == settings_of(given)
    old, new = weights(given), weights(made)
    assert {name: (t.shape, t.dtype) for name, t in old.items()} == {n: (t.shape, t.dtype) for n, t in new.items()}
    for name, tensor in old.items():
        of_the_base = "base_layer" in name or "original_module" in name
        assert torch.equal(tensor, new[name]) == of_the_base, name
    assert (made / "tokenizer.json").is_file() and not (made / "model.safetensors").exists()


def settings_of(adapter: Path) -> Any:
    return json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
