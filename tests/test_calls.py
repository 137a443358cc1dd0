"""The package called from Python: recipes with keywords over them, and paths as objects wherever a path is."""

import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge import pipeline
from expunge.config import commands, options, recipes
from expunge.config.bounds import fields_naming
from expunge.errors import InputError
from expunge.loop.trial import method_of
from problems import write_model

KINDS: dict[str, type[Any]] = {
    "unlearn": commands.Unlearn,
    "plan": commands.Plan,
    "retrain": commands.Retrain,
    "evaluate": commands.Evaluate,
    "compare": commands.Compare,
}


@pytest.fixture(autouse=True)
def only_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each function gives back what it would run."""
    monkeypatch.delenv("EXPUNGE_DATA", raising=False)
    for name in KINDS:
        monkeypatch.setattr(pipeline, f"run_{name}", lambda config, say=None: config)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "given" / "recipe.yaml"
    file.parent.mkdir()
    file.write_text("forget: f.jsonl\nmodel: ./model\nseed: 7\ncontext: 40\noutput: out\n", encoding="utf-8")
    return file


def check_recipe(call: Callable[..., Any], recipe: Path, name: str) -> None:
    """What stands in it counts, placed beside it; a keyword goes over it, and what is in neither is the default."""
    found = call(recipe=str(recipe))
    assert type(found) is KINDS[name]
    assert (found.forget, found.model) == (str(recipe.parent / "f.jsonl"), str(recipe.parent / "model"))
    assert (found.seed, found.context, found.join) == (7, 40, "auto")
    over = call(recipe=str(recipe), seed=8, forget="other.jsonl", join="space")
    assert (over.seed, over.context, over.forget, over.join) == (8, 40, "other.jsonl", "space")
    assert call(recipe=recipe) == call(recipe=str(recipe)).__class__(**vars_of(found) | {"recipe": str(recipe)})
    below = call(recipe=str(recipe), data_root="rows")
    assert (below.forget, below.data_root) == ("f.jsonl", "rows")  # a data root is where rows lie


def vars_of(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in fields(config)}


@pytest.mark.parametrize("name", KINDS)
def test_a_recipe_is_honoured_and_a_keyword_goes_over_it(name: str, recipe: Path) -> None:
    check_recipe(getattr(expunge, name), recipe, name)


def _ignored(kind: type[Any], settings: dict[str, Any]) -> Any:
    return options.build(kind, settings, "unlearn")


def _over_the_keywords(kind: type[Any], settings: dict[str, Any]) -> Any:
    return CONFIGURED(kind, settings | vars_of(CONFIGURED(kind, {"recipe": settings["recipe"]})))


CONFIGURED = recipes.configuration


@pytest.mark.parametrize("broken", [_ignored, _over_the_keywords])
def test_a_recipe_that_does_not_count_would_be_seen(broken: Any, recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipes, "configuration", broken)
    with pytest.raises(AssertionError):
        check_recipe(expunge.unlearn, recipe, "unlearn")


def test_wrong_recipes_and_keywords_are_refused(recipe: Path, tmp_path: Path) -> None:
    for settings, words in (
        ({"recipe": "nowhere.yaml"}, "nowhere.yaml"),
        ({"recipe": 5}, "recipe must name a file or a shipped recipe, found int"),
        ({"recipe": str(recipe), "sed": 3}, "unlearn: unknown key 'sed'; did you mean 'seed'"),
        ({"recipe": str(recipe), "seed": "three"}, "seed must be int, found str"),
        ({"sed": 3}, "unknown key 'sed'"),
    ):
        with pytest.raises(InputError, match=words):
            expunge.unlearn(**settings)
    code = tmp_path / "code.yaml"
    code.write_text("method: mine.py\n", encoding="utf-8")
    with pytest.raises(InputError, match="no recipe chooses code"):
        expunge.unlearn(recipe=code)
    assert expunge.unlearn(recipe=recipe, method=tmp_path / "mine.py").method == str(tmp_path / "mine.py")


@pytest.mark.parametrize("name", KINDS)
def test_paths_are_taken_as_objects(name: str) -> None:
    """In every field that names something on a disk, alone or in a list, and where a method's file is named."""
    kind = KINDS[name]
    named = {field.name: field for field in fields(kind) if field.name in fields_naming(kind)}
    assert {"model", "forget", "data_root"} <= named.keys()
    given: dict[str, Any] = {key: Path("some") / key for key in named}
    wanted: dict[str, Any] = {key: str(path) for key, path in given.items()}
    for key in [key for key, field in named.items() if "tuple" in str(field.type)]:
        given[key], wanted[key] = [given[key], str(given[key])], (wanted[key], wanted[key])
    for key, one in (("method", Path("mine.py")), ("methods", ["npo", Path("mine.py")])):
        if key in {field.name for field in fields(kind)}:
            given[key] = one
            wanted[key] = str(one) if isinstance(one, Path) else tuple(map(str, one))
    found = getattr(expunge, name)(**given)
    assert {key: getattr(found, key) for key in wanted} == wanted
    assert all(type(value) is not type(Path()) for value in vars_of(found).values())
    assert getattr(expunge, name)(**wanted) == found


def test_a_path_where_none_is_asked_for_is_refused() -> None:
    with pytest.raises(InputError, match="seed must be int, found PosixPath"):
        expunge.unlearn(seed=Path("7"))
    with pytest.raises(InputError, match="join must be one of"):
        expunge.unlearn(join=Path("space"))


def test_options_of_a_method_take_paths_too(tmp_path: Path) -> None:
    file = tmp_path / "flat.py"
    source = (Path(expunge.__file__).parent / "curvatures" / "identity.py").read_text(encoding="utf-8")
    file.write_text(source.replace("class Identity", "class Flat"), encoding="utf-8")
    made: Any = method_of("fisher_removal", {"curvature": file})
    assert made.curvature == str(file)


def test_a_plan_is_the_same_of_objects_as_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    write_model(tmp_path / "model", width=16, layers=1)
    for name in ("forget", "retain"):
        rows = "".join(f'{{"prompt": "{name} {n}?", "completion": "{n}"}}\n' for n in range(4))
        (tmp_path / f"{name}.jsonl").write_text(rows, encoding="utf-8")
    given = {"model": tmp_path / "model", **{name: tmp_path / f"{name}.jsonl" for name in ("forget", "retain")}}
    shown = [
        [
            re.sub(r"of [\d.]+ GiB", "of what is free", line.split("  ")[0])
            for line in plan.lines
            if "Python takes" not in line
        ]
        for paths in (given, {key: str(path) for key, path in given.items()})
        for plan in [expunge.plan(method="gradient_ascent", **paths)]
    ]
    assert shown[0][:8] == shown[1][:8] and any(line == "gradient_ascent" for line in shown[0])
