"""A short run of margin_newton on the little world: what several tests ask for."""

from pathlib import Path
from typing import Any

OPTIONS = {"iterations": 2, "restorations": 1, "fit_rows": 20, "keep_rows": 8}
METHOD: dict[str, Any] = {"method": "margin_newton", "options": OPTIONS, "force": True}


def settings(world: Path, **more: Any) -> dict[str, Any]:
    rows = {name: str(world / f"{name}.jsonl") for name in ("forget", "retain", "holdout")}
    return {"model": str(world / "original"), **rows, **METHOD} | more
