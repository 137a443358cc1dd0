"""The least that a whole run needs: a model that learnt nothing, a few rows, two passes. Seconds, not minutes."""

import json
import random
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer

import expunge
from expunge.data.rows import Row
from expunge.data.tokens import Rendering
from expunge.loop.training import Training, fine_tune
from expunge.records import record
from expunge.records.run import Run
from problems import text_model, write_model

METHOD: dict[str, Any] = {"method": "gradient_ascent", "options": {"epochs": 1, "learning_rate": 1e-4}, "force": True}
TRAINING = Training(epochs=100, learning_rate=4e-3, batch_rows=12)
SIZE = {"width": 48, "layers": 2}


def write_rows(file: Path, name: str, numbers: range) -> Path:
    rows = [{"prompt": f"{name} {n}?", "completion": f"Item {n} of {name}"} for n in numbers]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_all(folder: Path) -> dict[str, Any]:
    """A model and rows; the inputs of a run."""
    write_model(folder / "model", width=16, layers=1)
    files = {name: write_rows(folder / f"{name}.jsonl", name, range(6)) for name in ("forget", "retain", "holdout")}
    return {"model": str(folder / "model")} | {name: str(file) for name, file in files.items()}


def write_world(folder: Path) -> Path:
    """Base, original and retrained model, and forget, retain, holdout and train rows, as the world of the other tests,
    but made in seconds: the original knows its 36 rows by heart."""
    rows = {name: number_rows(name, count) for name, count in (("forget", 12), ("retain", 24), ("holdout", 24))}
    rows["train"] = rows["forget"] + rows["retain"]
    for name, group in rows.items():
        plain = [{"prompt": row.prompt, "completion": row.completion} for row in group]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain), encoding="utf-8")
    write_model(folder / "base", **SIZE)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    for name, known in (("original", "train"), ("retrained", "retain")):
        model, _ = fine_tune(text_model(**SIZE), tokenizer, rows[known], Rendering(context=64), TRAINING, 0, name)
        model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder


def number_rows(name: str, count: int) -> list[Row]:
    """Answers that no rule and no other row gives away."""
    numbers = random.Random(name).sample(range(100, 1000), count)
    return [Row(name, line, "answer", f"{name} {line}?", str(number)) for line, number in enumerate(numbers, start=1)]


def raw(path: Path) -> Any:
    """A record as JSON has it, for tests that spoil it."""
    return json.loads(record.find(path).read_text(encoding="utf-8"))


def unlearn(output: Path, **settings: Any) -> Run:
    return expunge.unlearn(output=str(output), **(METHOD | settings))
