"""Every recipe parses into the configuration it is for, and what it names has the right type."""

from pathlib import Path

import pytest

from expunge import config, registry
from expunge.loop import Training

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("file", RECIPES, ids=lambda file: file.stem)
def test_recipe(file: Path) -> None:
    if file.stem.endswith("_training"):
        assert config.build(Training, config.read_yaml(file), str(file)).epochs > 0
        return
    values = config.from_yaml(file, config.Unlearn)
    recipe = config.build(config.Unlearn, values, str(file))
    assert recipe.model and recipe.forget and recipe.output
    paths = [recipe.model, recipe.forget, recipe.retain, recipe.holdout, recipe.output]
    assert all(path and Path(path).is_absolute() for path in paths)  # resolved against the recipe, wherever one stands
    config.build(registry.load("methods", recipe.method), recipe.options or {}, str(file))


def test_there_are_recipes() -> None:
    assert {file.stem for file in RECIPES} >= {"lume_small", "lume_small_training"}
