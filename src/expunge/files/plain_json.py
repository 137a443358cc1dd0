"""Values as JSON has them, and JSON files."""

import json
from pathlib import Path


def write_json(path: Path, content: object) -> None:
    """JSON in the order of reading (see `plain`)."""
    path.write_text(as_text(content), encoding="utf-8")


def as_text(content: object) -> str:
    """The same as a text."""
    return json.dumps(plain(content), indent=1, ensure_ascii=False) + "\n"


def plain(value: object) -> object:
    """A value as JSON has it: seven digits of every number, null for those that are not finite."""
    if isinstance(value, dict):
        return {str(name): plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.7g}") if abs(value) < float("inf") else None
    return value if isinstance(value, str | int | bool | type(None)) else str(value)
