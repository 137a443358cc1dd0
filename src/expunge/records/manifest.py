"""The files of an output by name, with their hashes and sizes: what a record says of everything beside itself."""

from pathlib import Path

from msgspec.structs import replace

from expunge.files import hashing
from expunge.records import record
from expunge.reporting.record import File, Record


def listed(folder: Path, without: Path) -> dict[str, File]:
    """Hash and size of every file below an output folder but one (its record), by name from that folder on."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() or file.is_symlink())
    return {str(file.relative_to(folder)): _entry(file) for file in files if file != without}


def seal(folder: Path, file: Path, content: Record) -> Record:
    """Writes the list into the record of an output, when all its other files stand as they will; returns the record."""
    whole = replace(content, files=listed(folder, file))
    record.write(file, whole)
    return whole


def _entry(file: Path) -> File:
    """Of a link, nothing: whatever it points at is no part of the output."""
    if file.is_symlink():
        return File("", 0)
    return File(hashing.full_hash(file), file.stat().st_size)
