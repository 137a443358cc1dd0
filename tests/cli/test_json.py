"""`--json`: one line of JSON on stdout whatever the command and whatever comes of it; everything else on stderr."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from expunge.cli import command_line

Main = Callable[[Sequence[str]], int]
CASES: dict[str, tuple[list[str], int, str]] = {
    "a list": (["list", "metrics"], 0, "entries"),
    "a version": (["--version"], 0, "version"),
    "nothing to purge": (["purge", "--yes"], 0, "removed"),
    "no record": (["record", "verify", "nowhere"], 2, "error"),
    "no such command": (["unlern"], 2, "error"),
    "no such flag": (["list", "--no-such-flag"], 2, "error"),
    "no model": (["unlearn", "--forget", "nowhere.jsonl", "--output", "out"], 2, "error"),
    "help": (["report", "--help"], 0, "command"),
}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def check_one_line(main: Main, capsys: pytest.CaptureFixture[str], case: str) -> None:
    arguments, code, key = CASES[case]
    assert main([*arguments, "--json"]) == code
    out = capsys.readouterr().out
    told: dict[str, Any] = json.loads(out)
    assert out.count("\n") == 1 and told["exit_code"] == code and key in told and told["command"] == arguments[0]


@pytest.mark.parametrize("case", CASES)
def test_one_line(case: str, capsys: pytest.CaptureFixture[str]) -> None:
    check_one_line(command_line.main, capsys, case)


def _lines_too(arguments: Sequence[str]) -> int:
    """Says what a person would read on stdout as well."""
    command_line.main([argument for argument in arguments if argument != "--json"])
    return command_line.main(arguments)


def test_the_check_rejects_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match=r"Expecting value|Extra data"):
        check_one_line(_lines_too, capsys, "a list")


def test_without_it_nothing_changes(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["list", "metrics"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("answer_recall") and said.err == ""
