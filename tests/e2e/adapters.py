"""Tiny models of four shapes with a LoRA trained on a handful of rows, as folders: what an adapter test starts from."""

import json
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from expunge.data.rows import Row
from expunge.demo.tiny import byte_tokenizer
from expunge.loop.training import Training, train
from problems import TARGETS, encoded, problem_of, text_model

FAMILIES = ("llama", "olmo2", "gpt2", "opt")


def write_rows(folder: Path) -> dict[str, str]:
    """Invented rows; `forget` and `retain` are what the adapter learns."""
    paths = {}
    for name, count in (("forget", 6), ("retain", 6), ("holdout", 24)):
        rows = [{"prompt": f"{name[0]}{n}?", "completion": f"{(n * 37 + len(name)) % 100:02d}"} for n in range(count)]
        paths[name] = str(folder / f"{name}.jsonl")
        Path(paths[name]).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return paths


def make(folder: Path, family: str, epochs: int = 0, grown: int = 0, **settings: Any) -> Path:
    """Base and tokenizer in `folder/base`, the adapter in `folder/adapter` (its path is returned).

    With `epochs` the adapter is trained on forget and retain rows; without, it is random. `grown` tokens are added by
    the fine-tune: to the tokenizer beside the adapter, and where it trains them, to the embeddings.
    """
    tokenizer, base = byte_tokenizer([], 258), text_model(family, seed=7)
    torch.manual_seed(7)  # the matrices of the adapter
    base.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    base.name_or_path = str(folder / "base")
    if grown:
        tokenizer.add_tokens([f"<new{n}>" for n in range(grown)])
        tokenizer.save_pretrained(folder / "adapter")
        if "modules_to_save" in settings:
            base.resize_token_embeddings(len(tokenizer))
    usual = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS[family], "task_type": "CAUSAL_LM"}
    usual |= {"lora_dropout": 0.3, "fan_in_fan_out": family == "gpt2"}
    wrapped = get_peft_model(base, LoraConfig(**usual | settings))
    if epochs:
        _train(wrapped, tokenizer, epochs)
    else:
        with torch.no_grad():
            for tensor in wrapped.parameters():
                if tensor.requires_grad:
                    tensor += 0.1 * torch.randn_like(tensor)
    wrapped.save_pretrained(folder / "adapter")
    return folder / "adapter"


def _train(wrapped: Any, tokenizer: Any, epochs: int) -> None:
    rows = tuple(
        Row(name, n, "answer", f"{name[0]}{n}?", f"{(n * 37 + len(name)) % 100:02d}")
        for name in ("forget", "retain")
        for n in range(6)
    )
    problem = problem_of(wrapped, {"train": encoded("train", rows, tokenizer)}, tokenizer=tokenizer, context=64)
    training = Training(epochs=epochs, learning_rate=1e-2, batch_rows=12)
    train(problem, problem.splits["train"], training, "test")
