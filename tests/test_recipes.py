"""Every recipe parses into the configuration it is for; shipped ones are found by name, from wherever a run starts."""

from pathlib import Path

import pytest

from expunge import comparison, config, recipes, registry
from expunge.errors import InputError
from expunge.loop import Training

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))
OF_COMPARE = {"seeds", "methods", "variants"}


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe(file: Path) -> None:
    content = config.read_yaml(file)
    if file.stem.endswith("_training"):
        assert config.build(Training, content, str(file)).epochs > 0
        return
    kind = config.Compare if OF_COMPARE & set(content) else config.Unlearn
    recipe = config.build(kind, config.from_yaml(file, kind), str(file))
    config.check_numbers(recipe)
    assert recipe.model and recipe.forget and recipe.retain
    local = [value for key in config.PATHS if key in content and (value := getattr(recipe, key)) != content[key]]
    assert len(local) >= 2
    assert all(Path(path).is_absolute() for path in local)  # resolved against the recipe, wherever one stands
    if kind is config.Compare:
        assert comparison.variants(recipe)
    else:
        assert recipe.output
        config.build(registry.load("methods", recipe.method), recipe.options or {}, str(file))


def test_there_are_recipes() -> None:
    assert {file.stem for file in RECIPES} >= {"lume_small", "lume_small_training"}


def test_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the working folder: its `recipes` need not be there, and nothing is to be written beside the package."""
    monkeypatch.chdir(tmp_path)
    values = config.from_yaml("lume_small", config.Unlearn)
    assert values["output"] == str(tmp_path / "build" / "lume_small" / "unlearned")
    assert values["model"] == str(tmp_path / "build" / "lume_small" / "models" / "original")
    assert config.read_yaml("lume_small_training")["epochs"] == 30


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lume_small").write_text("seed: 7\noutput: out\n")
    assert config.from_yaml("lume_small", config.Unlearn) == {"seed": 7, "output": str(tmp_path / "out")}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("lume_smal", "did you mean 'lume_small'"),
        ("lume_small.yaml", "cannot be read"),  # with an ending it is a file
        ("./lume_small", "cannot be read"),
        ("folder/lume_small", "cannot be read"),
    ],
)
def test_unknown_names(given: str, wanted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=wanted):
        config.read_yaml(given)


def test_summaries_are_one_sentence_each() -> None:
    found = recipes.summaries()
    assert set(found) == {file.stem for file in RECIPES}
    assert found["lume_olmo_1b"] == "The 1B target of SemEval-2025 Task 4 (LUME)."
    assert all(line.endswith(".") and "\n" not in line for line in found.values())
