"""--help shows the flags that people need; --help all shows every one."""

import dataclasses
import re
from typing import Any

import pytest

from expunge.cli import command_line, parsing
from expunge.cli.command_line import COMMANDS
from expunge.config import flags

READING = [name for name, kind in COMMANDS.items() if issubclass(kind, flags.Inputs)]
INNER = ("options", "variants")  # of a method, or of a recipe


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> set[str]:
    assert command_line.main(list(arguments)) == 0
    return {
        flag.replace("-", "_")
        for flag in re.findall(r"^[^-\w\n]{1,3}--([a-z][a-z-]*)", capsys.readouterr().out, re.MULTILINE)
    }


def fields(name: str) -> set[str]:
    return {field.name for field in dataclasses.fields(COMMANDS[name])} - {*INNER}


@pytest.mark.parametrize("name", READING)
def test_the_short_help_names_few_flags_and_the_whole_help_all(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    short, whole = shown(capsys, name, "--help"), shown(capsys, name, "--help", "all")
    assert {"model", "forget", "retain", "output"} & fields(name) <= short and len(short) <= 12
    assert short < whole >= fields(name)


def test_what_the_whole_help_is_short_of_would_be_seen(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parsing, "ALL", "every")
    assert not shown(capsys, "unlearn", "--help", "all") >= fields("unlearn")


def test_the_short_help_says_how_many_there_are_beside(capsys: pytest.CaptureFixture[str]) -> None:
    command_line.main(["evaluate", "-h"])
    said: Any = re.search(r"(\d+) more flags: expunge evaluate --help all", capsys.readouterr().out)
    assert int(said[1]) == len(fields("evaluate")) - len(shown(capsys, "evaluate", "--help"))
