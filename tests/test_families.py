"""Families of models, a dozen telling ones, by the program that tries them all (`benchmarks/families.py`).

Oracles are transformers and peft alone, on the written files. Broken variants: another parameter moved, one that should
have stayed still did not, a tensor renamed or recast, a loss that is none.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import families
import family_models
import family_page
from expunge.errors import InputError
from expunge.model import choice, trace
from expunge.model.layers import is_linear, unfit
from expunge.model.select import select, unnameable
from libraries import tried
from problems import lora_of, text_model

CPU = torch.device("cpu")
TOLD: dict[str, tuple[str, ...]] = {
    "gpt2": ("kfac",),  # one matrix for queries, keys and values, stored the other way round
    "afmoe": ("lora",),  # experts in one tensor, and an ordinary MLP whose names peft takes for theirs
    "mixtral": ("full",),  # other names on disk than in memory
    "deepseek_v3": ("kfac",),  # one head of keys for all: [B, 1, T, I]
    "gemma3n_text": ("kfac",),  # embeddings by layer, a router called twice
    "mamba": ("lora",),  # a layer that peft refuses, and one whose weight is used without it
    "zamba2": ("kfac",),  # a block of layers used at several depths
    "bert": ("full",),  # a bias that is tied, and a mask by a flag
    "falcon": ("lora",),  # linear layers that multiply in their own words
    "gemma3": ("full",),  # several configurations in one; its vocabulary in the text's
}


@pytest.mark.parametrize("family", [pytest.param(one, marks=tried) if one == "bert" else one for one in TOLD])
def test_a_telling_family_moves_what_was_asked_and_is_served_as_before(family: str, tmp_path: Path) -> None:
    found = families.examine(family, tmp_path / "work", TOLD[family], plans=False)
    assert found.steps == dict.fromkeys(("loads", *TOLD[family]), "yes")
    assert not found.served


def test_what_does_not_generate_is_refused_by_name(tmp_path: Path) -> None:
    said = families.examine("blt", tmp_path / "work", ("full",), plans=False).steps["full"]
    assert said.startswith("refused:") and "BltForCausalLM" in said and "Give a model" in said


def check_astray(before: Any, after: Any, may: set[str], must: set[str]) -> None:
    assert families.astray(before, after, families.Moves(may, must)) == []


def test_what_moved_astray_would_be_seen() -> None:
    before, after = text_model("gpt2"), text_model("gpt2")
    names = [name for name, _ in before.named_parameters()]
    with torch.no_grad():
        after.get_parameter(names[3]).add_(1.0)
    check_astray(before, after, {names[3]}, {names[3]})
    for may, must in ((set[str](), set[str]()), ({names[3], names[4]}, {names[4]})):
        with pytest.raises(AssertionError):
            check_astray(before, after, may, must)


def test_files_and_losses_that_differ_would_be_seen() -> None:
    given = {"a": torch.ones(2), "b": torch.ones(3)}
    assert families.unlike(given, dict(given)) == []
    for made in ({"a": torch.ones(2)}, {**given, "c": torch.ones(1)}, {**given, "a": torch.ones(2).half()}):
        assert families.unlike(given, made)
    assert families.unlike(given, {**given, "b": torch.tensor([1.0, torch.nan, 1.0])})
    assert not families.disagreeing([1.0], [torch.tensor(1.0001)], "original")
    for said in (1.1, None, float("nan")):
        assert families.disagreeing([said], [torch.tensor(1.0)], "original")
    assert families.disagreeing([1.0], [torch.tensor(float("nan"))], "original")


def test_the_page_has_a_line_for_every_family(tmp_path: Path) -> None:
    moved = {"loads": "yes", "full": "fault: x moved"}
    made = {
        "llama": {"steps": moved, "skipped": "", "served": ["x"], "parameters": 12},
        "musicgen": {"steps": {}, "skipped": "three parts", "served": [], "parameters": 0},
        "blt": {"steps": {"full": "refused: /a/blt/model: no"}, "skipped": "", "served": [], "parameters": 5},
    }
    family_page.write(tmp_path / "page.md", family_models.FAMILIES, made, "5", "c")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "2 of these were tried with an earlier state" in page
    assert all(f"| {family} |" in page for family in family_models.FAMILIES)
    assert "| llama | 12 | yes |  | fault |" in page and "| no |" in page and "/a/blt" not in page
    assert "blt (full): refused: no" in page and "musicgen: three parts" in page


# Layers by effect


def test_layers_without_two_factors_are_seen_in_a_pass() -> None:
    model = text_model("llama")
    assert unfit(model) == {}
    mlp = model.model.layers[0].mlp
    plain = mlp.forward
    mlp.forward = lambda x: plain(x) + 0 * mlp.down_proj(mlp.act_fn(mlp.gate_proj(x)))[:, :1]
    odd = unfit(model)
    assert set(odd) == {f"model.layers.0.mlp.{name}.weight" for name in ("gate_proj", "down_proj")}
    assert odd["model.layers.0.mlp.down_proj.weight"] == "called 2 times in one pass"
    mlp.forward = lambda x: plain(x[:, :2]).repeat_interleave(2, dim=1)[:, :3]
    assert set(unfit(model).values()) == {"called on other than each token of each window"}


def test_layers_without_two_factors_stay_and_asked_for_alone_are_refused() -> None:
    model = text_model("llama")
    odd = ["model.layers.0.mlp.down_proj.weight"]
    moved = select(model, "full", CPU, linear="mlp", unfit=odd).movable
    assert "model.layers.1.mlp.down_proj.weight" in moved and odd[0] not in moved
    with pytest.raises(InputError, match="two factors are defined for none"):
        choice.chosen(model, r"layers\.0\.mlp\.down_proj", odd)


def leaves(model: nn.Module, names: Sequence[str]) -> set[str]:
    return {name.rpartition(".")[2] for name in unnameable(model, names)}


@tried
def test_peft_is_asked_which_names_it_holds() -> None:
    names = ["a.0.down_proj", "a.0.q_proj", "a.0.out_proj"]
    with torch.device("meta"):
        known = {family: family_models.model_of(family) for family in ("llama", "afmoe", "mamba")}
    assert leaves(known["llama"], names) == set()
    assert leaves(known["afmoe"], names) == {"down_proj"}
    assert leaves(known["mamba"], names) == {"out_proj"}


# Plans


def test_experts_are_counted_as_often_as_a_token_meets_them() -> None:
    """One more expert a token: three products of width x inner for each of T tokens and layers, 2 FLOPs each."""
    tokens, flops = 8, []
    for met in (1, 2):
        shape = family_models.config_of("mixtral")
        shape.num_experts_per_tok = met
        flops.append(trace.trace(trace.blueprint(shape, "full").model, 1, tokens, 1, training=False).forward)
    one = 2 * 3 * family_models.WIDTH * family_models.INNER
    assert flops[1] - flops[0] == one * tokens * family_models.LAYERS != one * tokens


def test_a_stack_whose_layers_differ_is_traced_whole() -> None:
    """By settings, or by what parameters say: a first layer without experts."""
    alike, other = (family_models.config_of(family) for family in ("llama", "deepseek_v3"))
    for shape in (alike, other):
        shape.num_hidden_layers = 8
    alike.layer_types = None
    other.mlp_layer_types = ["dense"] + ["sparse"] * 7
    assert len(trace.Stack(alike, "full", torch.float32).models) == 2
    assert len(trace.Stack(other, "full", torch.float32).models) == 1


def test_a_lora_s_wrapper_is_not_a_second_call_of_what_it_wraps() -> None:
    """peft shows the wrapped layer's weight as the wrapper's own."""
    assert unfit(lora_of("llama")) == {}


def test_a_router_that_is_called_a_linear_layer_is_none() -> None:
    """Scores and choices come out of it, not its weight's product with what comes in."""

    class Router(nn.Linear):
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x), x

    assert not is_linear(Router(4, 4)) and is_linear(nn.Linear(4, 4))
