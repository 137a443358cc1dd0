"""Each command reads every flag that it takes: whole runs of the least size, their configurations watched.

What walks over all fields whatever they are (to write, check or hand them on) does not count as reading them.
"""

import copy
import dataclasses
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

import expunge
from e2e import little
from expunge.comparison import cells
from expunge.config import commands, flags, options, recipes
from expunge.errors import InputError
from expunge.model import gguf
from expunge.records import hashes

WALKERS: tuple[Callable[..., Any], ...] = (
    dataclasses.asdict,
    dataclasses.replace,
    copy.copy,
    options.check_values,
    recipes.resolved,
    gguf.opened,
    hashes.of_inputs,
    cells._shared,
)
CALLS: dict[str, type[Any]] = {
    "plan": commands.Plan,
    "unlearn": commands.Unlearn,
    "retrain": commands.Retrain,
    "fit_curvature": commands.Curvature,
    "influences": commands.Influence,
    "evaluate": commands.Evaluate,
    "compare": commands.Compare,
}
BEFORE = {"recipe"}  # read while the configuration is made (tests/test_calls.py)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Names of the fields that have been read, of any command's configuration."""
    walkers: set[CodeType] = {walker.__code__ for walker in WALKERS}
    found: set[str] = set()

    def look(self: Any, name: str) -> Any:
        if not name.startswith("_"):
            frame = sys._getframe(1)
            while frame is not None and frame.f_code not in walkers:
                frame = frame.f_back  # type: ignore[assignment]
            if frame is None:
                found.add(name)
        return object.__getattribute__(self, name)

    monkeypatch.setattr(flags.Inputs, "__getattribute__", look, raising=False)
    return found


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("given")
    made = little.write_all(folder)
    rows = [json.loads(line) for name in ("forget", "retain") for line in Path(made[name]).read_text().splitlines()]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "training.yaml").write_text("epochs: 1\n", encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:  # the model comes from an earlier run, which commands look for
        patch.setenv("EXPUNGE_CACHE", str(folder / "cache"))
        patch.setenv("XDG_CONFIG_HOME", str(folder / "config"))
        run = little.unlearn(folder / "before", **made)
    made |= {"base": made["model"], "model": str(run.output), "unlearned": made["model"]}
    made |= {"train": str(folder / "train.jsonl")}
    return made | {"train_config": str(folder / "training.yaml"), "force": True}


OWN: dict[str, dict[str, Any]] = {
    "plan": {"method": "gradient_ascent"},
    "unlearn": {"method": "gradient_ascent", "options": {"epochs": 1}},
    "fit_curvature": {"options": {"fit_rows": 4}},
    "compare": {"methods": ("gradient_ascent",), "seeds": (0,), "tokens": 200, "generations": "short"},
}


def run(name: str, given: dict[str, Any], output: Path) -> None:
    own = {field.name for field in dataclasses.fields(CALLS[name])}
    settings = {key: value for key, value in given.items() if key in own} | OWN.get(name, {})
    if "output" in own:
        output.mkdir()
        (output / "influence.jsonl").touch()  # of an earlier run, to be replaced
        settings |= {"output": output, "overwrite": True}
    if name == "evaluate":  # where nobody serves anything
        with pytest.raises(InputError, match=r"127\.0\.0\.1"):
            expunge.evaluate(**settings, endpoint="http://127.0.0.1:9/v1", served_model="none")
    getattr(expunge, name)(**settings)
    assert "output" not in own or (name == "influences") == (output / "influence.jsonl").is_file()


def unread(kind: type[Any], read: set[str]) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)} - read - BEFORE


@pytest.mark.parametrize("name", CALLS)
def test_every_flag_is_read(name: str, given: dict[str, Any], read: set[str], tmp_path: Path) -> None:
    run(name, given, tmp_path / "out")
    assert not unread(CALLS[name], read)
    more = dataclasses.make_dataclass("More", [("unused", int, 0)], bases=(CALLS[name],), frozen=True, kw_only=True)
    assert unread(more, read) == {"unused"}


def test_every_command_that_reads_rows_is_watched() -> None:
    assert set(CALLS.values()) == set(commands.BY_NAME.values())


def test_what_only_walks_over_fields_does_not_count(read: set[str]) -> None:
    config = commands.Influence(model="m", forget="f")
    recipes.resolved(config), options.check_values(config), dataclasses.replace(config, most=3)
    assert not read
    assert config.most and read == {"most"}
