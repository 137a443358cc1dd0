"""Flags of several values that are given several times: all of them count."""

from typing import Any

import pytest

from expunge.cli import parsing
from expunge.cli.command_line import COMMANDS

SELECT = ["train.jsonl", "--mentions", "Ada", "--mentions=Jane Doe", "--unseen", "u.jsonl", "--mentions", "B", "C"]


def check() -> None:
    found = parsing.parse("select", COMMANDS["select"], [*SELECT, "--output", "o"])
    assert (found.train, found.unseen, found.output) == ("train.jsonl", "u.jsonl", "o")
    assert found.mentions == ("Ada", "Jane Doe", "B", "C")
    found = parsing.parse(
        "unlearn", COMMANDS["unlearn"], ["--earlier", "a", "--seed", "3", "--earlier", "b", "--model", "m"]
    )
    assert (found.earlier, found.seed, found.model) == (("a", "b"), 3, "m")
    found = parsing.parse("compare", COMMANDS["compare"], ["--seeds", "1", "--seeds=2", "--methods", "npo"])
    assert (found.seeds, found.methods) == ((1, 2), ("npo",))


def test_all_of_them_count() -> None:
    check()


def test_the_last_alone_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    plain: Any = lambda kind, rest: rest  # noqa: E731
    monkeypatch.setattr(parsing, "_joined", plain)
    with pytest.raises(AssertionError):
        check()
