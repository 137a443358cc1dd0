"""Folders outside every output for what a run needs while it lasts: checkpoints, and whatever holds rows or text.

All lie in one owner-only folder. Who uses one holds a lock on it, which the system lets go of when the process ends,
however it ends; so what an interrupted run left can be told from what is in use (`expunge purge`).
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expunge.errors import InputError

CACHE = "EXPUNGE_CACHE"
LOCK, OUTPUT, BESIDE = "lock", "output", "beside"  # files of working folders: locked; which output; what lies elsewhere


def cache_folder() -> Path:
    """Where twins, cells and the demo's models are kept: EXPUNGE_CACHE, or below XDG_CACHE_HOME or ~/.cache."""
    given = os.environ.get(CACHE)
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "expunge"


def state_folder() -> Path:
    """Where working folders lie: EXPUNGE_CACHE/state, or below XDG_STATE_HOME or ~/.local/state."""
    given = os.environ.get(CACHE)
    below = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(given) / "state" if given else Path(below) / "expunge"


def run_folder(output: str | Path) -> Path:
    """The owner-only folder of the runs that write `output`, made where there is none: for what outlives a process.

    Nobody removes it but the run that is done with it, and `expunge purge`. Raises `InputError`.
    """
    place = str(Path(output).absolute())
    folder = private(_state("runs") / hashlib.sha256(place.encode()).hexdigest()[:16])
    (folder / OUTPUT).write_text(place, encoding="utf-8")
    return folder


@contextmanager
def temporary(purpose: str) -> Iterator[Path]:
    """An owner-only folder that is gone at the end of the block, also after an exception. Raises `InputError`."""
    folder = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=_state("temporary")))
    try:
        with locked(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def given_folder(output: str) -> Iterator[Path]:
    """An owner-only folder for what a call that writes `output` was given in memory; the same for the same output, and
    gone at the end of the block. Raises `InputError`, also where another process holds it."""
    place = str(Path(output).absolute()) if output else str(os.getpid())
    folder = private(_state("given") / hashlib.sha256(place.encode()).hexdigest()[:16])
    with locked(folder, f"{output}: another run is writing this output. Wait until it has ended, or name another."):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def noted(folder: Path) -> Iterator[None]:
    """Remembers a temporary folder that must lie elsewhere, beside an output, for as long as the block lasts."""
    with temporary("beside") as note:
        (note / BESIDE).write_text(str(folder.absolute()), encoding="utf-8")
        yield


@contextmanager
def locked(folder: Path, busy: str | None = None) -> Iterator[None]:
    """Holds the folder for this process. Raises `InputError`, with these words, where another process has it."""
    with (folder / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(busy or f"{folder}: another run is using it. Wait until that has ended.") from None
        yield


def in_use(folder: Path) -> bool:
    """Whether a process that lives holds the folder."""
    try:
        with locked(folder):
            return False
    except InputError:
        return True


def _state(name: str) -> Path:
    return private(private(state_folder()) / name)


def private(folder: Path) -> Path:
    """Makes a folder that its owner alone can enter. Raises `InputError` where there cannot be one."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:  # also where it is somebody else's
        raise InputError(
            f"{folder}: no folder for working files can be made there ({error.strerror}). Name one with {CACHE}."
        ) from None
    return folder
