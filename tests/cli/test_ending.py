"""A reader that has gone (`expunge unlearn --help | head -1`) ends a command quietly, as shells know it."""

import os
import subprocess
import sys

import pytest

from expunge.cli.ending import BROKEN_PIPE

COMMANDS = [
    ["unlearn", "--help"],
    ["--help"],
    ["list", "methods"],
    ["list", "recipes", "--json"],
    ["compare", "--help"],
]


def into_nowhere(command: list[str]) -> subprocess.CompletedProcess[bytes]:
    """Run with a pipe for its output whose reader has gone, as `head` has once it has its line."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, timeout=120)
    finally:
        os.close(writer)


def check_quiet(command: list[str]) -> None:
    """Nothing is said beside what is said to a reader (with --json, all that is no JSON)."""
    done = into_nowhere(command)
    assert done.returncode == BROKEN_PIPE == 128 + 13
    assert done.stderr == subprocess.run(command, capture_output=True, timeout=120).stderr
    assert not done.stderr or "--json" in command


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_it_ends_quietly(arguments: list[str]) -> None:
    check_quiet([sys.executable, "-m", "expunge", *arguments])


@pytest.mark.parametrize("program", ["print('x')", "import sys; print('x'); sys.exit(141)"])
def test_a_program_that_does_not_see_to_it_would_be_seen(program: str) -> None:
    """The interpreter says so at its end, when it flushes."""
    with pytest.raises(AssertionError):
        check_quiet([sys.executable, "-c", program])


def test_in_a_shell() -> None:
    """Whatever has been read by then: the pipe ends well, and nothing is said of it."""
    shell = f"set -o pipefail; {sys.executable} -m expunge unlearn --help | head -1"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, timeout=120)
    assert done.returncode in (0, BROKEN_PIPE) and done.stderr == b""
    assert done.stdout.count(b"\n") == 1
