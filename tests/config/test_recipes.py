"""Every recipe parses into the configuration it is for; shipped ones are found by name, from wherever a run starts."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge import registry
from expunge.comparison import variants
from expunge.config import commands, options, recipes, shipped
from expunge.config.bounds import fields_naming
from expunge.errors import InputError
from expunge.loop.training import Training
from problems import write_model

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))
HUB = {"lume_olmo_7b", "lume_olmo_1b"}
COMPARISONS = {"lume_small_compare", "lume_small_organisers", "lume_second_order"}
OF_COMPARE = {"seeds", "methods", "variants"}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe(file: Path) -> None:
    content = recipes.read_yaml(file)
    if file.stem.endswith("_training"):
        assert options.build(Training, content, str(file)).epochs > 0
        return
    kind = commands.Compare if OF_COMPARE & set(content) else commands.Unlearn
    recipe = options.build(kind, recipes.from_yaml(file, kind), str(file))
    options.check_values(recipe)
    assert recipe.model and recipe.forget and recipe.retain
    local = [value for key in fields_naming(kind) if key in content and (value := getattr(recipe, key)) != content[key]]
    assert len(local) >= 2
    assert all(Path(path).is_absolute() for path in local)  # resolved against the recipe, wherever one stands
    if kind is commands.Compare:
        assert variants.variants(recipe)
    else:
        assert recipe.output
        options.build(registry.load("methods", recipe.method), recipe.options or {}, str(file))
    registry.load("benchmarks", recipe.benchmark)()


def test_there_are_recipes() -> None:
    assert {file.stem for file in RECIPES} >= {"lume_small", "lume_small_training", *HUB, *COMPARISONS}


def test_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the working folder: its `recipes` need not be there, and nothing is to be written beside the package."""
    monkeypatch.chdir(tmp_path)
    values = recipes.from_yaml("lume_small", commands.Unlearn)
    assert values["output"] == str(tmp_path / "build" / "lume_small" / "unlearned")
    assert values["model"] == str(tmp_path / "build" / "lume_small" / "models" / "original")
    assert recipes.read_yaml("lume_small_training")["epochs"] == 30


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lume_small").write_text("seed: 7\noutput: out\n")
    assert recipes.from_yaml("lume_small", commands.Unlearn) == {"seed": 7, "output": str(tmp_path / "out")}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("lume_smal", "did you mean 'lume_small'"),
        ("lume_small.yaml", "does not exist"),  # with an ending it is a file
        ("./lume_small", "does not exist"),
        ("folder/lume_small", "does not exist"),
    ],
)
def test_unknown_names(given: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=wanted):
        recipes.read_yaml(given)


def test_summaries_are_one_sentence_each() -> None:
    found = shipped.summaries()
    assert set(found) == {file.stem for file in RECIPES}
    assert found["lume_olmo_1b"] == "The 1B target of SemEval-2025 Task 4 (LUME)."
    assert all(line.endswith(".") and "\n" not in line for line in found.values())


@pytest.fixture(scope="module")
def olmo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny OLMo, which stands in for the contest's model and its base."""
    return write_model(tmp_path_factory.mktemp("olmo"), "olmo", context=512)


@pytest.fixture
def folds(tmp_path: Path) -> Path:
    """Invented rows under the names of the contest's public folds."""
    for fold in ("forget_train", "retain_train"):
        rows = [
            {
                "id": f'"{fold}-{n}"{kind}',
                "input": f"{fold} {n} {kind} is",
                "output": f"so {n}.",
                "task": f"Task{n % 3 + 1}",
            }
            for n in range(6)
            for kind in ("sc1", "qa0")
        ]
        (tmp_path / f"{fold}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize("name", sorted(HUB))
def test_recipes_of_the_contest_run_dry(name: str, olmo: Path, folds: Path) -> None:
    """Rows below the data root, the hub's names kept, the model swapped for a tiny one of its family."""
    file = next(file for file in RECIPES if file.stem == name)
    values: dict[str, Any] = recipes.from_yaml(file, commands.Unlearn, root=str(folds))
    assert values["model"].startswith("llmunlearningsemeval2025organization/") and values["base"].startswith("allenai/")
    known = {field.name for field in fields(commands.Plan)}
    settings = {key: value for key, value in values.items() if key in known}
    lines = expunge.plan(**settings | {"model": str(olmo), "base": str(olmo), "data_root": str(folds)}).lines
    assert "olmo" in lines[0]
    assert any(line.startswith("forget: 12 rows, 6 documents, 6 answers") for line in lines)
    assert any(f"subspace: {values['subspace']} (asked for)" in line for line in lines)
    assert any(line.startswith("margin_newton: moves layers ") for line in lines)
