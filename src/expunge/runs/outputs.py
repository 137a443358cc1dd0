"""Folders that a command leaves: never over another, all of it or nothing. No torch: pages need none."""

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from expunge.errors import ExpungeError, InputError
from expunge.runs import workspace

MEGABYTE = 2**20
FULL = (errno.ENOSPC, errno.EDQUOT)


def check_output(output: str | Path) -> Path:
    """Raises `InputError` where an output exists or cannot be made, before anything is computed or written."""
    path = Path(output)
    if path.exists() or path.is_symlink():
        raise InputError(f"{path}: the output exists already and is never overwritten. Name another --output.")
    parent = next(folder for folder in path.absolute().parents if folder.exists() or folder.is_symlink())
    if not parent.is_dir():
        raise InputError(f"{path}: {parent} is a file, so no folder can be made below it. Name another --output.")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{path}: {parent} cannot be written to. Name another --output.")
    return path


@contextmanager
def whole_folder(output: Path, private: bool = False) -> Iterator[Path]:
    """A temporary sibling of `output`, renamed to it at the end; removed where the work inside fails.

    `private`: only its owner may enter it. For one process; several: `model.save.atomic_folder`.
    """
    made = [folder for folder in (output.absolute().parent, *output.absolute().parents[1:]) if not folder.exists()]
    output.absolute().parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.absolute().parent))
    try:
        with workspace.noted(temporary), full_disk_explained(temporary.parent):
            yield temporary
            temporary.chmod(0o700 if private else 0o755)
            for file in temporary.glob("*.safetensors"):  # which safetensors itself makes for their owner alone
                file.chmod(0o600 if private else 0o644)
            if output.exists():
                raise InputError(f"{output}: the output appeared while this ran; nothing was overwritten.")
            temporary.rename(output)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def full_disk_explained(folder: Path, need: int = MEGABYTE) -> Iterator[None]:
    """Turns "no space left" on writing `need` bytes below `folder` into an `ExpungeError` that says what is missing."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) not in FULL and "No space left" not in str(error):
            raise
        free = shutil.disk_usage(folder).free
        raise ExpungeError(
            f"{folder}: the disk is full; {max(1, -(-(need - free) // MEGABYTE)):,} MB are missing "
            f"({-(-need // MEGABYTE):,} MB to write, {free // MEGABYTE:,} MB free). Make room and give the same "
            "command again: it goes on from the last state that was kept."
        ) from None
