"""Starts two processes of one program as a launcher does, but without one: nobody ends the second when one fails."""

import os
import socket
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import forked

WITHIN = 240  # seconds; what hangs is ended by it
PATHS = [str(Path(__file__).parents[1]), str(Path(__file__).parents[2] / "src")]


def environment(folder: Path) -> dict[str, str]:
    """One thread, and folders of its own."""
    own = {"XDG_CONFIG_HOME": str(folder / "config"), "EXPUNGE_CACHE": str(folder / "cache")}
    return os.environ | own | {"PYTHONPATH": os.pathsep.join(PATHS), "OMP_NUM_THREADS": "1"}


def run(work: Callable[..., Any], arguments: Sequence[Any], folder: Path) -> list[subprocess.CompletedProcess[str]]:
    """Both processes of `work(*arguments)`, ended. Raises `TimeoutExpired`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = environment(folder) | {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        forked.Process(work, arguments, folder, common | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in (0, 1)
    ]
    try:
        said = [one.communicate(timeout=WITHIN) for one in started]
    finally:
        for one in started:
            one.kill()
    return [subprocess.CompletedProcess([], one.returncode, *parts) for one, parts in zip(started, said, strict=True)]
