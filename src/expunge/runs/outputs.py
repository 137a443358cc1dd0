"""Folders that a command leaves: all of it or nothing, and over another only where that was asked for. No torch: pages
need none.

To replace an output, the new one is made whole beside it, the old one is renamed aside, the new one takes its name, and
then the old one goes. Killed between the two names, nothing bears the name: whoever comes next (a run of this output,
or `expunge purge`) gives it back to the old one. Killed later, what is left of the old one is removed.
"""

import contextlib
import errno
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from expunge.errors import ExpungeError, InputError
from expunge.files import whole
from expunge.runs import launcher, workspace

MEGABYTE = 2**20
FULL = (errno.ENOSPC, errno.EDQUOT)
UNFINISHED = re.compile(r"\.(?P<output>.+)-[a-z0-9_]{8}")  # a new output before it has its name
OLD = ".old"  # after the name of a new output: the one that it replaces


def check_output(output: str | Path, replaces: bool = False) -> Path:
    """Raises `InputError` where an output exists or cannot be made, before anything is computed or written.

    `replaces`: it may exist, as a folder.
    """
    path = Path(output)
    if launcher.rank() == 0:
        for old in path.absolute().parent.glob(f".{glob.escape(path.name)}-????????{OLD}"):
            settle(old.with_name(old.name.removesuffix(OLD)))
    if replaces and path.is_dir() and not path.is_symlink():
        if not os.access(path.absolute().parent, os.W_OK):
            raise InputError(f"{path}: its folder cannot be written to. Name another --output.")
        return path
    if path.exists() or path.is_symlink():
        raise InputError(
            f"{path}: the output exists already and is never overwritten unasked. Name another --output, or "
            "add --overwrite."
        )
    parent = next(folder for folder in path.absolute().parents if folder.exists() or folder.is_symlink())
    if not parent.is_dir():
        raise InputError(f"{path}: {parent} is a file, so no folder can be made below it. Name another --output.")
    if not os.access(parent, os.W_OK):
        raise InputError(f"{path}: {parent} cannot be written to. Name another --output.")
    return path


def settle(temporary: Path) -> bool:
    """Ends a replacement that was interrupted: where nothing bears the output's name, the old one gets it back; where
    the new one bears it, the old one goes. False: something else bears it, and all stays."""
    old, named = temporary.with_name(temporary.name + OLD), UNFINISHED.fullmatch(temporary.name)
    if named is None or old.is_symlink() or not old.is_dir():
        return True
    output = temporary.with_name(named["output"])
    if not os.path.lexists(output):
        old.rename(output)
    elif not os.path.lexists(temporary):
        shutil.rmtree(old, ignore_errors=True)
    else:
        return False
    return True


def _name(temporary: Path, output: Path, replaces: bool) -> None:
    """Gives the finished folder its name. Raises `InputError` where something else bears it that is not replaced."""
    old = temporary.with_name(temporary.name + OLD)
    if replaces and output.is_dir() and not output.is_symlink():
        output.rename(old)
        whole.flush(output.absolute().parent)
    if os.path.lexists(output):
        raise InputError(f"{output}: the output appeared while this ran; nothing was overwritten.")
    temporary.rename(output)
    if old.is_dir():
        whole.flush(output.absolute().parent)
        shutil.rmtree(old)


@contextmanager
def whole_folder(output: Path, private: bool = False, replaces: bool = False) -> Iterator[Path]:
    """A temporary sibling of `output`, renamed to it at the end; removed where the work inside fails.

    `private`: only its owner may enter it; `replaces`: what bears the name goes, once all is there. For one process;
    several: `model.save.atomic_folder`.
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
            _name(temporary, output, replaces)
    except BaseException:
        settle(temporary)
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
