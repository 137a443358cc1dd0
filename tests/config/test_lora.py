"""A LoRA with settings: one text for each, from whatever form; wrong ones are refused with what would be right."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

import expunge
from expunge.cli import command_line, parsing
from expunge.config import commands, lora, options, recipes
from expunge.config.lora import Lora
from expunge.errors import InputError
from expunge.loop.training import Training

NAMES = some.text("abcdefgh_.0123", min_size=1, max_size=12)


@given(some.integers(1, 10**6), some.none() | some.integers(1, 999) | some.floats(0.01, 1e4), some.lists(NAMES))
@settings(max_examples=60)
def test_the_text_says_all_of_it(r: int, alpha: float | None, targets: list[str]) -> None:
    one = Lora(r, alpha, targets)
    again = lora.of(str(one))
    assert (again.r, again.targets) == (one.r, one.targets) and lora.is_lora(str(one)) and str(again) == str(one)
    assert again.alpha == pytest.approx(one.alpha, rel=1e-14)
    assert str(Lora(r + 1, alpha or r, targets)) != str(one)


def test_one_text_for_each() -> None:
    assert str(Lora()) == str(Lora(r=32, alpha=32.0)) == lora.text("lora:alpha=32", "x") == "lora"
    wanted = "lora:r=16,alpha=32,targets=q_proj+v_proj"
    for form in (
        "lora:targets=q_proj+v_proj,alpha=32.0,r=16",
        {"r": 16, "alpha": 32, "targets": ["q_proj", "v_proj"]},
        Lora(r=16, alpha=32, targets=("q_proj", "v_proj", "q_proj")),
    ):
        assert lora.text(form, "x") == wanted
    for other in ("auto", "full", "model.layers.3.*", "lorax"):
        assert lora.text(other, "x") == other and not lora.is_lora(other)


WRONG: list[tuple[Any, str]] = [
    ("lora:r=0", "r must be a whole number above 0, found 0"),
    ("lora:r=1.5", "r must be a whole number above 0, found 1.5"),
    ("lora:alpha=-1", "alpha must be a number above 0"),
    ("lora:alpha=nan", "alpha must be a number above 0"),
    ("lora:rank=16", "a LoRA has no 'rank'"),
    ("lora:r=1,r=2", "r stands there twice"),
    ("lora:targets=", "targets must be names of layers"),
    ({"r": True}, "r must be a whole number"),
    ({"targets": "q_proj"}, "targets must be names of layers, found 'q_proj'"),
    ({"targets": ["q proj"]}, "targets must be names of layers"),
    ({"dropout": 0.1}, "a LoRA has no 'dropout'"),
]


@pytest.mark.parametrize(("form", "words"), WRONG, ids=str)
def test_wrong_ones_are_refused(form: Any, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=words):
        options.build(commands.Unlearn, {"subspace": form}, "recipe")
    if isinstance(form, str):
        assert command_line.main(["unlearn", "--subspace", form]) == 2
        assert words in capsys.readouterr().err


def test_flag_recipe_and_keyword_mean_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("subspace: {r: 16, targets: [q_proj]}\n", encoding="utf-8")
    made = options.build(commands.Unlearn, recipes.from_yaml(recipe, commands.Unlearn), "recipe")
    flag = parsing.parse("unlearn", commands.Unlearn, ["--subspace", "lora:r=16,targets=q_proj"])
    assert made.subspace == flag.subspace == "lora:r=16,targets=q_proj"
    monkeypatch.setattr("expunge.pipeline.run_plan", lambda config, say: config)
    assert expunge.plan(subspace=expunge.Lora(r=16, targets=["q_proj"])).subspace == made.subspace  # type: ignore[attr-defined]
    again = recipes.to_yaml(recipes.resolved(made))
    recipe.write_text(again, encoding="utf-8")
    assert options.build(commands.Unlearn, recipes.from_yaml(recipe, commands.Unlearn), "recipe") == made
    assert options.build(Training, {"subspace": {"r": 8}}, "training").subspace == "lora:r=8"
