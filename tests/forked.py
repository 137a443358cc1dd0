"""Processes that begin with the libraries loaded: a process of a test's own without six seconds of imports for each.

A server (multiprocessing's) imports once in each process that runs tests, and does nothing else; what it forks has its
own folder, environment, stdout, stderr and exit code, and can be killed. What only a fresh interpreter can show (entry
points, what an import takes, another order of sets) needs `subprocess`.
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["expunge.pipeline", "expunge.cli.command_line", "peft", "matplotlib.pyplot", "accelerate"]
    + [f"transformers.models.{name}" for name in ("llama.modeling_llama", "auto.modeling_auto")]
)
_OWN = {"TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}  # else the tokenizers complain of the fork on stderr


class Process:
    """A process that does `work(*arguments)`, which may end it with an exit code, as `subprocess.Popen` as far as it
    is used here; text only."""

    def __init__(
        self, work: Callable[..., Any], arguments: Sequence[Any], folder: Path, environment: Mapping[str, str]
    ) -> None:
        self._said = tempfile.TemporaryDirectory()
        files = [Path(self._said.name) / name for name in ("out", "err")]
        given = (work, arguments, folder, os.environ | _OWN | dict(environment), files)
        self._process = _SERVER.Process(target=_begin, args=given, daemon=True)
        self._process.start()

    @property
    def returncode(self) -> int:
        code = self._process.exitcode
        assert code is not None
        return code

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """What it said, once it has ended. Raises `subprocess.TimeoutExpired`."""
        self._process.join(timeout)
        if self._process.is_alive():
            raise subprocess.TimeoutExpired("a forked process", timeout or 0.0)
        out, err = (Path(self._said.name, name).read_text(encoding="utf-8") for name in ("out", "err"))
        return out, err

    def kill(self) -> None:
        self._process.kill()


def expunge(arguments: Sequence[str], folder: Path, environment: Mapping[str, str]) -> Process:
    """`python -m expunge ARGUMENTS`."""
    return Process(_command, [list(arguments)], folder, environment)


def _command(arguments: list[str]) -> None:
    from expunge.cli import command_line

    sys.argv = ["expunge", *arguments]
    command_line.entry()


def _begin(
    work: Callable[..., Any], arguments: Sequence[Any], folder: Path, environment: dict[str, str], files: list[Path]
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    work(*arguments)
