"""What a run leaves on disk: config, hashes, versions, seeds, timings, scores, with a schema version.

The form is that of `record.schema.json`. Hashes of rows and of row files are keyed (HMAC-SHA256): a plain hash of a
short secret can be enumerated. The key lies in the user's configuration folder with mode 0600 and never in a record.
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
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from expunge import config as configs
from expunge.errors import InputError
from expunge.reading import check_name, read_json

SCHEMA = 2
REMEDY = "Name a record.json, or the output folder of a run; a newer or older expunge may write another schema."
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


def versions() -> dict[str, str]:
    """Of this package, of Python, and of the libraries that results depend on."""
    return {"expunge": version("expunge"), "python": platform.python_version()} | {
        name: version(name) for name in PACKAGES
    }


def environment() -> dict[str, Any]:
    """Versions, machine, time and peak memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
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
    if (mode := file.stat().st_mode & 0o777) & 0o077:
        raise InputError(
            f"{file}: others may read the key for row hashes (mode {mode:03o}). Run chmod 600 on it if they are to be "
            "trusted; else remove it, and take it that they can guess short rows from the ids in earlier records."
        )
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


def key_mark(secret: bytes) -> str:
    """Says which key made the hashes of a record, and nothing of the key."""
    return keyed_hash(["which key made these hashes"], secret)


def keyed_file_hash(path: Path, secret: bytes) -> str:
    """HMAC-SHA256 of a file of rows, or of all files below a folder with their names, 16 hex digits."""
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for file in sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]:
        digest.update(keyed_hash([str(file.relative_to(path)), str(file.stat().st_size)], secret).encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def full_hash(file: Path) -> str:
    """SHA-256 of a file, all 64 hex digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


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
    """JSON in the order of reading (see `plain`)."""
    path.write_text(json.dumps(plain(content), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def find(path: str | Path) -> Path:
    """The file of a record: the path itself, or where it lies in an output folder."""
    file = Path(path)
    if file.is_dir():
        inner = file / "expunge" / "record.json"
        return inner if inner.is_file() else file / "record.json"
    return file


def read(path: str | Path) -> dict[str, Any]:
    """A record from its file or its output folder. Raises `InputError` for anything else."""
    check_name(str(path), "the path of the record")
    file = find(path)
    content = read_json(file, "the record", REMEDY)
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        raise InputError(f"{file}: not a record of schema {SCHEMA}. {REMEDY}")
    return dict(content)


def read_whole(path: str | Path) -> dict[str, Any]:
    """A record whose parts that other runs build on have the form of the schema. Raises `InputError`."""
    content = read(path)
    if broken := [name for name, holds in _FORMS.items() if not holds(content.get(name))]:
        raise InputError(f"{find(path)}: the record's {', '.join(broken)} cannot be read. Was it cut off or edited?")
    return content


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _judged(value: Any) -> bool:
    return isinstance(value, list) and all(map(_judged_row, value))


def _judged_row(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("loss"), dict):
        return False
    numbers = all(loss is None or type(loss) in (int, float) for loss in row["loss"].values())
    return numbers and isinstance(row.get("id"), str) and isinstance(row.get("verdict"), str)


def _paths(value: Any) -> bool:
    """The configuration: every setting that names a file or a folder is text, or a list of texts."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name, ""), str) for name in ("benchmark", "adapter_base", *configs.PATHS))
        and _texts(value.get(configs.EARLIER, []))
    )


_FORMS: dict[str, Callable[[Any], bool]] = {
    "created": lambda value: isinstance(value, str),
    "rows": _judged,
    "earlier": lambda value: value is None or (isinstance(value, dict) and _judged(value.get("rows"))),
    "config": _paths,
    "key": lambda value: isinstance(value, str),
    "hashes": _mapping,
    "versions": _mapping,
    "row_files": _mapping,
    "holders": lambda value: (
        isinstance(value, list) and all(_mapping(one) and {"what", "where"} <= one.keys() for one in value)
    ),
    "files": lambda value: (
        isinstance(value, dict) and all(isinstance(one, dict) and "sha256" in one for one in value.values())
    ),
    "parent": lambda value: (
        value is None
        or (
            isinstance(value, dict) and _texts(value.get("served")) and _texts([value.get("path"), value.get("record")])
        )
    ),
}


def plain(value: Any) -> Any:
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
