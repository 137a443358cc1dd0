"""What the path of a model is, a run asks once, where its inputs are checked; every stage gets the answer."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import expunge
from e2e import little
from expunge.config import commands
from expunge.intake.sets import Checked
from expunge.model import gguf
from expunge.model.source import Source
from problems import write_model


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("asked")
    inputs = little.write_all(folder)
    write_model(folder / "base", width=16, layers=1)
    return inputs | little.METHOD | {"base": str(folder / "base"), "device": "cpu"}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each path has been asked what it is."""
    found: Counter[str] = Counter()
    of = Source.of

    def counted(path: str, *more: Any) -> Source:
        found[path] += 1
        return of(path, *more)

    monkeypatch.setattr(Source, "of", counted)
    return found


def unlearn(given: dict[str, Any], output: Path) -> None:
    expunge.unlearn(**given, output=output)


def plan(given: dict[str, Any], output: Path) -> None:
    expunge.plan(**{name: value for name, value in given.items() if name != "force"})


@pytest.mark.parametrize("command", [unlearn, plan])
def test_a_path_is_asked_once(
    command: Callable[[dict[str, Any], Path], None], given: dict[str, Any], tmp_path: Path, asked: Counter[str]
) -> None:
    command(given, tmp_path / "out")
    assert asked[given["model"]] == 1
    assert asked[given["base"]] == (1 if command is plan else 2)  # it is loaded beside the original, by its path


def test_a_second_visit_is_seen(
    given: dict[str, Any], tmp_path: Path, asked: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken: what was found is thrown away, and the path asked again."""
    monkeypatch.setattr(Checked, "opened", lambda self, inputs: replace(self, model=Source.of(inputs.model, inputs)))
    unlearn(given, tmp_path / "out")
    assert asked[given["model"]] == 2


def test_what_was_opened_is_asked_again(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A GGUF file that has become a folder is another path; and so it is where it is the base of an adapter."""
    file, folder = str(tmp_path / "a.gguf"), given["model"]
    Path(file).touch()
    monkeypatch.setattr(gguf, "folder_of", lambda file, say: folder)
    rows: dict[str, Any] = {name: given[name] for name in ("forget", "retain")}
    for named in ({"model": file}, {"model": given["base"], "adapter_base": file}):
        config = commands.Unlearn(**rows, **named)
        before = Checked({}, {}, None, Source.of(str(config.model), config))
        config = gguf.opened(config)
        after = before.opened(config).model
        assert (after.path, after.trust.adapter_base) == (config.model, config.adapter_base)
        assert after != before.model and before.opened(config).opened(config) == before.opened(config)
