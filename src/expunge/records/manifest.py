"""The files of an output by name, with their hashes and sizes: what a record says of everything beside itself."""

from pathlib import Path
from typing import Any

from expunge.files import hashing, plain_json
from expunge.records import record


def listed(folder: Path, without: Path) -> dict[str, dict[str, Any]]:
    """Hash and size of every file below an output folder but one (its record), by name from that folder on."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() or file.is_symlink())
    return {str(file.relative_to(folder)): _entry(file) for file in files if file != without}


def seal(folder: Path, file: Path) -> dict[str, dict[str, Any]]:
    """Writes the list into the record of an output, when all its other files stand as they will; returns the list."""
    found = listed(folder, file)
    plain_json.write_json(file, record.read(file) | {"files": found})
    return found


def _entry(file: Path) -> dict[str, Any]:
    """Of a link, nothing: whatever it points at is no part of the output."""
    if file.is_symlink():
        return {"sha256": "", "bytes": 0}
    return {"sha256": hashing.full_hash(file), "bytes": file.stat().st_size}
