"""The least that a whole run needs: a model that learnt nothing, a few rows, two passes. Seconds, not minutes."""

import json
from pathlib import Path
from typing import Any

import expunge
from expunge.records.run import Run
from problems import write_model

METHOD: dict[str, Any] = {"method": "gradient_ascent", "options": {"epochs": 1, "learning_rate": 1e-4}, "force": True}


def write_rows(file: Path, name: str, numbers: range) -> Path:
    rows = [{"prompt": f"{name} {n}?", "completion": f"Item {n} of {name}"} for n in numbers]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def write_all(folder: Path) -> dict[str, Any]:
    """A model and rows; the inputs of a run."""
    write_model(folder / "model", width=16, layers=1)
    files = {name: write_rows(folder / f"{name}.jsonl", name, range(6)) for name in ("forget", "retain", "holdout")}
    return {"model": str(folder / "model")} | {name: str(file) for name, file in files.items()}


def unlearn(output: Path, **settings: Any) -> Run:
    return expunge.unlearn(output=str(output), **(METHOD | settings))
