"""Files that are there in full or not at all, also where the process or the machine ends in the middle."""

import os
from collections.abc import Iterable
from pathlib import Path

PART = ".part"


def write_whole(file: Path, content: bytes | Iterable[bytes], mode: int = 0o600) -> None:
    """Writes beside the place, flushes to the disk and renames: there is always the old file or the new one."""
    prepare(file, content, mode)
    place(file)


def prepare(file: Path, content: bytes | Iterable[bytes], mode: int = 0o600) -> None:
    """The first half: all of it on the disk, under another name."""
    with os.fdopen(os.open(_part(file), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as new:
        for block in (content,) if isinstance(content, bytes) else content:
            new.write(block)
        new.flush()
        os.fsync(new.fileno())


def place(file: Path) -> None:
    """The second half: the name, in place of what bore it."""
    _part(file).replace(file)
    flush(file.parent)


def flush(folder: Path) -> None:
    """What a folder holds, and no longer holds, on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _part(file: Path) -> Path:
    return file.with_name(file.name + PART)
