"""`expunge plan` on models of which there is only a configuration, and what it says in words."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import OlmoConfig

import expunge
import forked
from expunge.cli import parsing
from expunge.config import commands
from expunge.errors import InputError
from expunge.planning import table
from expunge.planning.estimate import Cost, Estimate, Fit
from expunge.planning.memory import Memory
from planning import figures

SEVEN = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "intermediate_size": 11008}
ONE = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 16, "intermediate_size": 8192}
GIB = 2**30


@pytest.fixture(scope="module")
def olmo(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """Folders with OLMo's configurations and a tokenizer, no weights, and files of invented rows."""
    folder = tmp_path_factory.mktemp("olmo")
    for name, sizes in {"seven": SEVEN, "one": ONE}.items():
        tied = name == "one"
        shape = OlmoConfig(**sizes, vocab_size=50304, max_position_embeddings=2048, tie_word_embeddings=tied)
        shape.dtype = "bfloat16"
        shape.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    rows = {
        name: [{"prompt": f"Who is {name} {line:02d}?", "completion": "a fox " * 9} for line in range(count)]
        for name, count in {"forget": 12, "retain": 20, "holdout": 16}.items()
    }
    for name, content in (rows | {"train": rows["forget"] + rows["retain"]}).items():
        text = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def given(olmo: Path, model: str, **flags: Any) -> dict[str, Any]:
    files = {role: str(olmo / f"{role}.jsonl") for role in ("forget", "retain", "holdout", "train")}
    return {"model": str(olmo / model), "base": str(olmo / model), **files, "device": "cpu"} | flags


def estimated(olmo: Path, folder: Path, model: str, **flags: Any) -> dict[str, Any]:
    """The figures of a plan in a process of its own."""
    process = forked.Process(figures.write, [given(olmo, model, **flags), folder / "figures.json"], folder, {})
    said = process.communicate()
    assert process.returncode == 0, said
    return dict(json.loads((folder / "figures.json").read_text()))


def parameters(sizes: dict[str, int], tied: bool) -> int:
    width, layers, inner = sizes["hidden_size"], sizes["num_hidden_layers"], sizes["intermediate_size"]
    return layers * (4 * width**2 + 3 * width * inner) + (1 if tied else 2) * 50304 * width


def near(planned: float, by_hand: float) -> bool:
    return abs(planned / by_hand - 1) <= 0.25


def test_seven_billion_parameters_by_hand(olmo: Path, tmp_path: Path) -> None:
    found = estimated(olmo, tmp_path, "seven", subspace="full", method="gradient_ascent", options={"forget_rows": 4})
    assert found["seconds"] < 20 and found["peak"] < GIB
    cost, retraining = found["costs"]
    # A row: begin token, 14 characters, a space, 54 characters, EOS = 71 tokens; 10 epochs over 12 rows; 6 P T.
    count, tokens = parameters(SEVEN, tied=False), 71 * 12 * 10
    assert cost["steps"] == 30
    assert near(cost["step_flops"], 6 * count * tokens)
    assert not near(cost["step_flops"], 4 * count * tokens)
    assert not near(cost["step_flops"], 6 * count * tokens / 10)
    # Retraining: 20 rows are left, so an epoch is two steps of 16 rows, and there are three epochs.
    assert near(retraining["step_flops"], 6 * count * 71 * 2 * 16 * 3)
    # Weights, gradients, two moments and a snapshot in float32, and little beside them.
    assert near(cost["peak"], 5 * 4 * count)
    tried = found["room"]["24 GB"]
    assert tried[0]["flags"] == "" and tried[0]["subspace"] == "full" and not any(one["fits"] for one in tried)
    assert all(one["peak"] > 4 * count for one in tried)  # what is saved is merged in float32


def test_one_billion_parameters_fit_with_lora(olmo: Path, tmp_path: Path) -> None:
    found = estimated(olmo, tmp_path, "one", subspace="full", method="loss_matching", options={"replay_texts": 0})
    assert found["seconds"] < 20 and found["peak"] < GIB
    tried = found["room"]["24 GB"]
    count = parameters(ONE, tied=True)
    assert [(one["flags"], one["fits"]) for one in tried] == [("", False), ("--subspace lora", True)]
    assert tried[0]["peak"] > 7 * 4 * count > 24 * GIB  # the probe's attempts keep three snapshots
    assert 4 * count < tried[1]["peak"] < 24 * GIB


def test_weights_are_not_needed_to_plan_but_to_run(olmo: Path, tmp_path: Path) -> None:
    lines = expunge.plan(**given(olmo, "one", method="gradient_ascent")).lines
    shown = "\n".join(lines)
    assert "gradient_ascent" in shown and "fits in 24 GB:" in shown and "recommended:" in shown
    with pytest.raises(InputError, match="holds no weights"):
        expunge.unlearn(**given(olmo, "one"), output=str(tmp_path / "out"))


def test_a_recipe_of_unlearn_is_planned_as_it_is(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: loss_matching\noptions: {steps: 7}\noutput: out\nsave_as: merged\n", encoding="utf-8")
    parsed = parsing.parse("plan", commands.Plan, ["--recipe", str(recipe), "--memory", "80"])
    assert type(parsed) is commands.Plan
    assert (parsed.method, parsed.options.steps, parsed.memory) == ("loss_matching", 7, 80.0)
    every = parsing.parse("plan", commands.Plan, ["--recipe", str(recipe), "--method", "all"])
    assert (every.method, every.options) == ("all", {"steps": 7})
    assert parsing.parse("plan", commands.Plan, []).method == "all"
    assert (
        parsing.parse("plan", commands.Plan, ["--method", "loss_matching", "--options.steps", "9"]).options.steps == 9
    )
    with pytest.raises(InputError, match="did you mean 'loss_matching'"):
        parsing.parse("plan", commands.Plan, ["--method", "loss_machting"])


def cost(name: str, seconds: float, row_passes: float = 1234.4) -> Cost:
    memory = Memory({"measuring": 5, "unlearning": 3 * GIB})
    return Cost(name, "full", 20, row_passes, 3e12, 1e12, memory, seconds, 99.6, seconds / 3)


def test_retraining_is_recommended_where_it_is_about_as_cheap() -> None:
    method = cost("loss_matching", 100.0, 1000.0)
    assert table.recommendation(method, cost("retraining", 1.0, 1490.0)).startswith("recommended: retrain")
    assert table.recommendation(method, cost("retraining", 1.0, 1600.0)).startswith("recommended: unlearn")
    assert "--base and --train" in table.recommendation(method, None)


def test_retraining_is_recommended_where_too_much_is_to_go() -> None:
    method = cost("margin_newton", 100.0)
    dear = cost("retraining", 1600.0, 9000.0)
    assert table.recommendation(method, dear, 0.25).startswith("recommended: unlearn")
    assert table.recommendation(method, dear, 0.26).startswith("recommended: retrain (expunge retrain). 26%")
    assert "before its fine-tuning" in table.recommendation(method, None, 0.5)


def test_lines() -> None:
    fits = (Fit("", "full", 40 * GIB, "unlearning", False), Fit("--subspace lora", "lora", 9 * GIB, "saving", True))
    estimate = Estimate(
        (cost("a", 30.0), cost("margin_newton", 7200.0)), {"b": "--retain"}, {"c": "cannot"}, None, {"24 GB": fits}, GIB
    )
    shown = table.lines(estimate)
    assert (
        shown[0].split()
        == "method subspace steps row passes time measuring its time together peak memory while".split()
    )
    assert shown[1].split() == "a full 20 1,234 20 s 100 10 s 30 s 3.0 GiB unlearning".split()
    assert "80 min" in shown[2] and "40 min" in shown[2] and "2.0 h" in shown[2]
    assert "b: needs --retain" in shown and "c: cannot" in shown
    expected = "no as asked, with full (40 GiB while unlearning); yes with --subspace lora (9.0 GiB while saving)"
    assert shown[-1] == f"fits in 24 GB: {expected}"
    tight = (*fits[:1], replace(fits[1], fits=False), Fit("--context 128", "lora", 8 * GIB, "saving", False))
    unfit = "nor with --subspace lora, --context 128 (8.0 GiB while saving at least)"
    assert table.fits("8 GB", tight) == f"fits in 8 GB: no as asked, with full (40 GiB while unlearning); {unfit}"
    roomy = replace(fits[0], fits=True)
    assert table.fits("80 GB", [roomy]) == "fits in 80 GB: yes as asked, with full (40 GiB while unlearning)"
    retrained = table.lines(replace(estimate, retraining=cost("retraining", 6000.0)))
    assert any(line.startswith("recommended: retrain") for line in retrained)


@pytest.mark.parametrize(("seconds", "shown"), [(12.4, "12 s"), (100, "1.7 min"), (5400, "1.5 h"), (3e6, "35 d")])
def test_durations(seconds: float, shown: str) -> None:
    assert table.duration(seconds) == shown
