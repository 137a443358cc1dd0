"""Wrong input to the second-order methods: refused by name, and before a model is loaded where that can be known."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
from expunge import registry
from expunge.cli import command_line
from expunge.config.commands import Unlearn
from expunge.config.options import build
from expunge.errors import InputError
from expunge.influence import directions
from expunge.intake.sets import check
from expunge.methods.fisher_removal import FisherRemoval
from expunge.problem import Problem
from problems import lora_of, model_of, problem_of

METHODS = ("fisher_forgetting", "fisher_removal", "libu")
DAMPING = 0.1
NUMBERS = ("damping", "absolute_damping", "budget", "step_size")

# Method, options, and what the answer must say.
WRONG: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    *(
        (method, {key: wrong}, (f"{key} must be a number above 0",))
        for method in METHODS
        for key in NUMBERS
        for wrong in (0, -0.1)
    ),
    *(
        (method, {"cycles": 0}, ("cycles must be a number above 0",))
        for method in ("fisher_removal", "fisher_forgetting")
    ),
    *((method, {"curvature": "diagnal"}, ("no curvature 'diagnal'", "did you mean 'diagonal'?")) for method in METHODS),
    *((method, {"curvature_options": {"lables": "data"}}, ("unknown key 'lables'", "'labels'")) for method in METHODS),
    ("libu", {"curvature_options": {"labels": "date"}}, ("labels must be one of", "'date'")),
    ("libu", {"curvature_options": "data"}, ("options of curvature diagonal", "found str")),
    ("libu", {"curvature": "identity", "curvature_options": {"block": 4}}, ("unknown key 'block'; there are none",)),
    *(
        (
            "fisher_removal",
            {"curvature": "block", "curvature_options": {key: wrong}},
            (f"{key} must be a number above 0",),
        )
        for key in ("block", "gradients")
        for wrong in (0, -4)
    ),
    ("fisher_removal", {"curvature_options": {"passes": 0}}, ("passes must be a number above 0",)),
    *((method, {"step": "fixed"}, ("give step_size",)) for method in METHODS),
]


def fit(problem: Problem, curvature: str, options: dict[str, Any]) -> directions.Fit:
    """The curvature fitted on the retain rows."""
    here = replace(problem, splits={"curvature": problem.splits["retain"]})
    return directions.fit(here, FisherRemoval(curvature=curvature, curvature_options=options))


def check_refused(refusing: Callable[[], object], words: tuple[str, ...]) -> None:
    with pytest.raises(InputError) as caught:
        refusing()
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(("method", "options", "words"), WRONG, ids=lambda value: str(value)[:60])
def test_wrong_options_are_refused_on_construction(
    method: str, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    """From a recipe and from Python alike."""
    kind = registry.load("methods", method)
    check_refused(lambda: build(kind, options, "options"), words)
    check_refused(lambda: kind(**options), words)


@pytest.mark.parametrize("method", METHODS)
def test_they_are_refused_before_anything_is_read(method: str, tmp_path: Path) -> None:
    """Neither the model nor the rows exist, and still it is the damping that is named."""
    given = {"model": str(tmp_path / "none"), "forget": str(tmp_path / "none.jsonl"), "output": str(tmp_path / "out")}
    words = ("damping must be a number above 0",)
    check_refused(lambda: expunge.unlearn(**given, method=method, options={"damping": 0.0}), words)
    words = ("no curvature 'diagnal'", "did you mean 'diagonal'?")
    check_refused(lambda: expunge.unlearn(**given, method=method, options={"curvature": "diagnal"}), words)
    with pytest.raises(InputError, match="none"):  # with right options, it is the folder
        expunge.unlearn(**given, method=method, options={"damping": DAMPING})


def test_the_command_line_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--model", str(tmp_path / "none"), "--forget", "none.jsonl", "--method", "fisher_removal"]
    for wrong, words in (
        (["--options.damping", "0"], "damping must be a number above 0"),
        (["--options.curvature", "diagnal"], "did you mean 'diagonal'?"),
        (["--options.curvature-options", "block", "50"], "unknown key 'block'"),
    ):
        assert command_line.main(["unlearn", *flags, *wrong]) == 2
        shown = " ".join(capsys.readouterr().err.replace("│", " ").split())  # tyro frames it, as any wrong flag
        assert words in shown and "Traceback" not in shown


def test_curvature_options_of_the_command_line_are_values() -> None:
    """There they are texts, since the flags do not know the curvature's keys."""
    made: Any = directions.curvature_of("block", {"block": "50", "labels": "data", "gradients": "7"})
    assert (made.block, made.labels, made.gradients) == (50, "data", 7)
    assert FisherRemoval(curvature="block", curvature_options={"block": None}).curvature_options == {"block": None}


def inputs(folder: Path, retain: int) -> Unlearn:
    """Of a hub name, which is not looked up here: no model exists."""
    for name, count in (("forget", 4), ("retain", retain)):
        rows = [json.dumps({"prompt": f"{name} {line}?", "completion": f"{line} foxes"}) for line in range(count)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    given = str(folder / "retain.jsonl") if retain else None
    return Unlearn(model="owner/name", forget=str(folder / "forget.jsonl"), retain=given)


@pytest.mark.parametrize("method", METHODS)
def test_retain_rows_are_needed_and_enough_of_them(method: str, tmp_path: Path) -> None:
    needs = registry.load("methods", method)().needs
    check_refused(lambda: check(inputs(tmp_path, 0), needs), ("forget.jsonl", "needs rows to keep", "--retain"))
    few = needs.fewest_retain - 1
    words = ("retain.jsonl", f"{few} row(s) to keep", f"at least {needs.fewest_retain}")
    check_refused(lambda: check(inputs(tmp_path, few), needs), words)
    if method != "libu":  # which needs something to take targets from, too
        assert len(check(inputs(tmp_path, few + 1), needs).parts["retain"]) == needs.fewest_retain


class Scaled(torch.nn.Module):
    """A layer that no rule is known for: another layer inside, and a parameter of its own."""

    def __init__(self, inner: torch.nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.scale = torch.nn.Parameter(torch.ones(1).double())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) * self.scale


@pytest.mark.parametrize("curvature", ["diagonal", "block"])
def test_a_layer_that_has_no_curvature_is_named(curvature: str) -> None:
    model = model_of("llama")
    model.model.layers[1].mlp = Scaled(model.model.layers[1].mlp)
    problem = problem_of(model)
    options = {"gradients": 4} if curvature == "block" else {}

    check_refused(lambda: fit(problem, curvature, options), ("layers.1.mlp.scale belongs to Scaled", "subspace"))
    del problem.movable["model.layers.1.mlp.scale"]
    assert fit(problem, curvature, options).state.mean > 0


@pytest.mark.parametrize("curvature", ["diagonal", "block"])
def test_a_curvature_that_is_not_finite_is_named(curvature: str) -> None:
    problem = problem_of(lora_of("opt"))
    options = {"gradients": 4} if curvature == "block" else {}
    with torch.no_grad():
        next(iter(problem.movable.values())).view(-1)[0] = float("nan")
    check_refused(
        lambda: fit(problem, curvature, options),
        ("the curvature of", "lora_", "is not finite"),
    )


def test_exact_labels_are_for_tiny_vocabularies(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = problem_of(lora_of("opt"))
    monkeypatch.setattr(problem.model.config, "vocab_size", 50_000)
    check_refused(
        lambda: fit(problem, "diagonal", {"labels": "exact"}),
        ("labels exact", "50,000", "labels: noise"),
    )


def test_a_check_without_words_would_be_noticed() -> None:
    with pytest.raises(pytest.fail.Exception):
        check_refused(lambda: FisherRemoval(damping=DAMPING), ("damping",))
    with pytest.raises(AssertionError):
        check_refused(lambda: FisherRemoval(damping=0), ("did you mean",))
