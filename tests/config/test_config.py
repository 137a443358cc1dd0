"""Configurations: recipes are checked key by key, paths have one meaning, and what was resolved replays the run."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.config import recipes
from expunge.config.commands import Evaluate, Retrain, Unlearn
from expunge.config.options import build
from expunge.config.recipes import DATA_ROOT, data_path, from_yaml, read_yaml
from expunge.errors import InputError
from expunge.methods.loss_matching import LossMatching


@pytest.fixture(autouse=True)
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DATA_ROOT, raising=False)


def recipe(folder: Path, content: str | bytes) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "recipe.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def load(path: Path, kind: type[Any] = Unlearn) -> Any:
    """As the command line reads a recipe."""
    return build(kind, from_yaml(path, kind), str(path))


WRONG = {
    "unknown key": ("forgett: a", ("'forgett'", "did you mean 'forget'?", "Known: model")),
    "far key": ("zzz: a", ("'zzz'", "Known: model")),
    "number as key": ("5: a", ("'5'",)),
    "wrong type": ("seed: soon", ("seed", "int", "found str")),
    "bool for a number": ("seed: true", ("seed", "int", "found bool")),
    "number for a bool": ("show_rows: 1", ("show_rows", "bool", "found int")),
    "nothing for a number": ("seed: null", ("seed", "int", "found null")),
    "number for a path": ("forget: 5", ("forget", "str", "found int")),
    "number for a folder": ("data_root: 5", ("data_root", "str", "found int")),
    "list": ("model: [a]", ("model", "found list")),
    "no choice": ("join: tab", ("join", "auto, space, newline, nothing", "'tab'")),
    "broken": ("seed: 1\nmodel: [a\n", ("line 3", "not YAML")),
    "tag": ("model: !!python/object:os.system x", ("line 1", "not YAML")),
    "impossible date": ("model: 2024-13-45", ("not YAML",)),
    "list at the top": ("- a", ("keys and values", "found list")),
    "latin-1": (b"model: \xff", ("UTF-8",)),
}


def check_refused(reading: Callable[[Path], Any], path: Path, words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        reading(path)
    assert str(path) in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_recipes_are_refused(tmp_path: Path, case: str) -> None:
    content, words = WRONG[case]
    check_refused(load, recipe(tmp_path, content), words)


def test_refusal_check_rejects_silence(tmp_path: Path) -> None:
    with pytest.raises(pytest.fail.Exception):
        check_refused(read_yaml, recipe(tmp_path, "forgett: a"), ())


def test_missing_and_empty_recipes(tmp_path: Path) -> None:
    check_refused(load, tmp_path / "none.yaml", ("does not exist",))
    assert load(recipe(tmp_path, "# nothing\n")) == Unlearn()


def test_options_are_checked_too() -> None:
    assert build(LossMatching, {"steps": 3, "width": 1}, "options").width == 1  # whole numbers are numbers
    for values, words in (
        ({"step": 3}, "did you mean 'steps'"),
        ({"steps": 0.5}, "steps must be int or nothing, found float"),
        ({"width": None}, "width must be float, found null"),
        ({5: 1}, "unknown key"),
    ):
        with pytest.raises(InputError, match=words):
            build(LossMatching, values, "options")


def test_numbers_in_scientific_notation(tmp_path: Path) -> None:
    values = read_yaml(recipe(tmp_path, "learning_rate: 1e-5\n"))  # plain YAML 1.1 takes this for a text
    assert build(LossMatching, values, "options").learning_rate == 1e-5


@pytest.mark.parametrize(("value", "fine"), [("auto", True), (512, True), ("512x", False), (0, False), (1.5, False)])
def test_batch_tokens_are_a_number_or_auto(value: Any, fine: bool) -> None:
    if fine:
        assert build(Evaluate, {"batch_tokens": value}, "recipe").batch_tokens == value
    else:
        with pytest.raises(InputError, match="batch_tokens"):
            build(Evaluate, {"batch_tokens": value}, "recipe")


def test_nulls_are_defaults(tmp_path: Path) -> None:
    assert load(recipe(tmp_path, "data_root:\nmodel:\ncontext:\n")) == Unlearn()


def test_relative_paths_start_at_the_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = recipe(
        tmp_path / "recipes", "forget: rows/f.jsonl\nretain: /abs/r.jsonl\nmodel: ../model\nbase: owner/base\n"
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for one in (path, Path("../recipes/recipe.yaml")):
        found = load(one)
        assert Path(found.forget).resolve() == tmp_path / "recipes" / "rows" / "f.jsonl"
        assert found.retain == "/abs/r.jsonl"
        assert Path(found.model).resolve() == tmp_path / "model"
        assert found.base == "owner/base"  # a hub name, since there is no such folder
        assert data_path(found, "forget") == found.forget
    (tmp_path / "recipes" / "owner" / "base").mkdir(parents=True)
    assert load(path).base == str(tmp_path / "recipes" / "owner" / "base")


@pytest.mark.parametrize(("kind", "key"), [(Retrain, "train_config"), (Evaluate, "unlearned"), (Evaluate, "retrained")])
def test_other_inputs_start_at_the_recipe_too(tmp_path: Path, kind: type[Any], key: str) -> None:
    (tmp_path / "there").mkdir()
    assert getattr(load(recipe(tmp_path, f"{key}: there"), kind), key) == str(tmp_path / "there")


def test_data_root_of_the_recipe(tmp_path: Path) -> None:
    found = load(recipe(tmp_path, "data_root: sets\nforget: f.jsonl\nretain: /abs/r.jsonl\nmodel: ./m\n"))
    assert data_path(found, "forget") == str(tmp_path / "sets" / "f.jsonl")
    assert data_path(found, "retain") == "/abs/r.jsonl"
    assert data_path(found, "holdout") is None
    assert Path(found.model) == tmp_path / "m"  # models do not lie below the data root


def test_data_root_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(DATA_ROOT, "/root-of-data")
    assert data_path(load(recipe(tmp_path, "forget: f.jsonl\n")), "forget") == "/root-of-data/f.jsonl"
    assert data_path(Unlearn(forget="f.jsonl"), "forget") == "/root-of-data/f.jsonl"
    assert data_path(Unlearn(forget="f.jsonl", data_root="/flag"), "forget") == "/flag/f.jsonl"


def replayed(one: Any, folder: Path) -> Any:
    return load(recipe(folder, recipes.to_yaml(recipes.resolved(one))), type(one))


def check_replay(replay: Callable[[Any, Path], Any], one: Any, folder: Path) -> None:
    """The replay resolves to what the run resolved to, wherever its recipe lies and whatever the environment says."""
    wanted = recipes.resolved(one)
    found = replay(one, folder)
    assert recipes.resolved(found) == wanted
    assert {name: getattr(found, name) for name in wanted} == wanted
    for role in ("forget", "retain"):
        assert data_path(found, role) == wanted.get(role)


@pytest.mark.parametrize("root", [None, "data"])
def test_resolved_replays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str | None) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    one = Unlearn(
        model="model",
        base="owner/base",
        forget="f.jsonl",
        retain=str(tmp_path / "r.jsonl"),
        data_root=root,
        recipe="some.yaml",
        context=64,
        options=LossMatching(learning_rate=2.5e-5, steps=7),
        output="été",
        seed=3,
    )
    wanted = recipes.resolved(one)
    assert wanted["forget"] == str(tmp_path / (root or "") / "f.jsonl")
    assert wanted["model"] == str(tmp_path / "model") and wanted["base"] == "owner/base"
    assert "recipe" not in wanted and "data_root" not in wanted and "holdout" not in wanted
    check_replay(replayed, one, tmp_path / "other")
    options = replayed(one, tmp_path / "other").options
    assert build(LossMatching, options, "options") == one.options

    def unresolved(one: Any, folder: Path) -> Any:
        plain = {name: value for name, value in dataclasses.asdict(one).items() if value is not None}
        return load(recipe(folder, recipes.to_yaml(plain)), type(one))

    with pytest.raises(AssertionError):
        check_replay(unresolved, one, tmp_path / "other")


def test_resolved_holds_every_setting() -> None:
    plain = recipes.resolved(Unlearn(model="m", forget="/f", show_rows=True))
    never = {"recipe", "data_root", "restart", "overwrite", "report_to"}  # of one process, not of the run
    unset = {field.name for field in dataclasses.fields(Unlearn) if getattr(Unlearn(), field.name) is None}
    assert {field.name for field in dataclasses.fields(Unlearn)} - never - unset <= plain.keys()
    assert plain["show_rows"] is True


def test_configurations_are_frozen_and_keyword_only() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Unlearn().seed = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        Unlearn("model")  # type: ignore[misc]


def test_hub_names_lie_in_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = "hub:owner/rows:train"
    for text in (f"forget: '{name}'\n", f"forget: '{name}'\ndata_root: sets\n"):
        found = load(recipe(tmp_path / "recipes", text))
        assert data_path(found, "forget") == name and recipes.resolved(found)["forget"] == name
    monkeypatch.setenv(DATA_ROOT, str(tmp_path))
    assert data_path(Unlearn(forget=name), "forget") == name
    (tmp_path / "hub:owner").mkdir()
    (tmp_path / name).write_text("")  # a path that lies there wins
    assert data_path(Unlearn(forget=name), "forget") == str(tmp_path / name)
    monkeypatch.delenv(DATA_ROOT)
    monkeypatch.chdir(tmp_path)
    assert recipes.resolved(Unlearn(forget=name))["forget"] == str(tmp_path / name)
