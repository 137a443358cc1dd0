"""A flag means one thing wherever it is taken, has one type, and one text; a command takes only what it reads."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin

import pytest

from expunge.cli import command_line
from expunge.cli.command_line import COMMANDS
from expunge.config import commands, flags, housekeeping, options
from expunge.config.bounds import parts


def plain(declared: Any) -> Any:
    """A type without its annotations, and without None: whether a flag must be given is not what it means."""
    inner, _ = parts(declared)
    if get_origin(inner) in (Union, type(int | None)):
        own = tuple(plain(one) for one in get_args(inner) if one is not type(None))
        return own if len(own) > 1 else own[0]
    return tuple(plain(one) for one in get_args(inner) if one is not ...) if get_origin(inner) is tuple else inner


def differing(kinds: dict[str, type[Any]]) -> set[str]:
    """Flags that are two things: of two types or with two texts."""
    found: dict[str, set[str]] = {}
    for kind in kinds.values():
        texts = options.meanings(kind)
        for field in dataclasses.fields(kind):
            assert texts.get(field.name), (kind, field.name)
            found.setdefault(field.name, set()).add(repr((plain(field.type), texts[field.name])))
    return {name for name, said in found.items() if len(said) > 1}


def test_a_flag_of_one_name_is_one_thing() -> None:
    assert differing(COMMANDS) == set()


@dataclass(frozen=True, kw_only=True)
class OfAnotherType(housekeeping.Report):
    seeds: int = 1
    """Seeds of each method."""


@dataclass(frozen=True, kw_only=True)
class WithAnotherText(housekeeping.Report):
    base: flags.ModelFolder = None
    """What an adapter stands on."""


@pytest.mark.parametrize(("kind", "name"), [(OfAnotherType, "seeds"), (WithAnotherText, "base")])
def test_a_flag_that_is_two_things_would_be_seen(kind: type[Any], name: str) -> None:
    assert differing({**COMMANDS, "report": kind}) == {name}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["influence", "--mmlu", "no"], "expunge influence takes no flag --mmlu; it is one of unlearn, evaluate."),
        (["plan", "--output=x"], "expunge plan takes no flag --output; it is one of unlearn, retrain,"),
        (["retrain", "--twin", "3"], "expunge retrain takes no flag --twin; did you mean 'twins'?"),
        (["report", "--recrod", "x"], "expunge report takes no flag --recrod; did you mean 'record'?"),
    ],
)
def test_a_flag_that_a_command_does_not_take(given: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(given) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1


def test_taking() -> None:
    assert commands.taking("unlearned") == ["evaluate"] and commands.taking("nothing") == []
