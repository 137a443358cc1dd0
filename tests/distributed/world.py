"""A tiny model and rows on disk for runs of the command line by several processes."""

import json
from pathlib import Path
from typing import Any


def write(folder: Path, model: Any, tokenizer: Any) -> list[str]:
    """Writes model and rows; returns the arguments of an `unlearn` that is over in seconds."""
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    lines = {}
    for role, count in (("forget", 5), ("retain", 13), ("holdout", 6)):
        rows = [{"prompt": f"{role} {n}?", "completion": f"{n * 37} of {role}"} for n in range(count)]
        lines[role] = "".join(json.dumps(row) + "\n" for row in rows)
    lines["train"] = lines["forget"] + lines["retain"]
    for role, text in lines.items():
        (folder / f"{role}.jsonl").write_text(text, encoding="utf-8")
    (folder / "training.yaml").write_text("epochs: 2\nbatch_rows: 5\nlearning_rate: 0.01\n", encoding="utf-8")
    roles = [part for role in ("forget", "retain", "holdout") for part in (f"--{role}", str(folder / f"{role}.jsonl"))]
    settings = ["--method", "gradient_difference", "--options.epochs", "3", "--options.forget-rows", "5"]
    return ["unlearn", "--model", str(folder / "model"), *roles, *settings, "--subspace", "lora", "--device", "cpu"]
