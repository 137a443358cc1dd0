"""What a run leaves on disk: config, hashes, versions, seeds, timings, scores, with a schema version.

Hashes of rows and of row files are keyed (HMAC-SHA256): a plain hash of a short secret can be enumerated. The key lies
in the user's configuration folder with mode 0600 and never in a record.
"""

import hashlib
import hmac
import json
import os
import platform
import resource
import secrets
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from expunge.errors import InputError
from expunge.reading import check_name, read_json

SCHEMA = 1
PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "rouge_score", "numpy", "scipy")
LIMITS = (
    "Only the questions and documents in the files were asked; paraphrases, samples at higher temperature, relearning "
    "and rounding to fewer bits were not tried.",
    "A rank among never-seen rows shows that a row is no more familiar than they are; it cannot show that nothing of "
    "it is left in the weights.",
    "What was trained in but stands in none of the files is seen only through the model's own samples.",
    "The original model, its checkpoints, caches and the files given still hold the rows.",
)


class Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - begin, 3)


def environment() -> dict[str, Any]:
    """Versions, machine, time and peak memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {"expunge": version("expunge"), "python": platform.python_version()}
        | {name: version(name) for name in PACKAGES},
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }


def key() -> bytes:
    """The user's key for row hashes, made on first use below XDG_CONFIG_HOME (or ~/.config), mode 0600."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "expunge"
    file = folder / "row-hash.key"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
            new.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    except OSError as error:
        raise InputError(f"{file}: the key for row hashes cannot be written ({error.strerror}).") from None
    if len(secret := file.read_bytes()) != 32:
        raise InputError(f"{file}: not a key of 32 bytes. Remove it; ids in earlier records will not match new ones.")
    return secret


def keyed_hash(parts: Iterable[str], secret: bytes) -> str:
    """HMAC-SHA256 of texts, 16 hex digits."""
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def file_hash(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents of files that hold no rows (weights, code), 16 hex digits."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def code_hash() -> str:
    """Hash of this package's own source."""
    return file_hash(sorted(Path(__file__).parent.rglob("*.py")))


def write_json(path: Path, content: Any) -> None:
    """JSON in the order of reading. Numbers that are not finite become null."""
    path.write_text(json.dumps(_plain(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read(path: str | Path) -> dict[str, Any]:
    """A record from its file or its output folder. Raises `InputError` for anything else."""
    check_name(str(path), "the path of the record")
    file = Path(path)
    if file.is_dir():
        inner = file / "expunge" / "record.json"
        file = inner if inner.is_file() else file / "record.json"
    content = read_json(file, "the record", "Name a record.json, or the output folder of a run.")
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise InputError(f"{file}: not a record of schema {SCHEMA}. Name a record.json, or the output folder of a run.")
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float):
        return float(f"{value:.7g}") if abs(value) < float("inf") else None
    return value if isinstance(value, str | int | bool | type(None)) else str(value)
