"""Which linear layers move: kinds by structure on four architectures, and as many as memory holds."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch

from expunge.errors import InputError
from expunge.model import choice, trace
from expunge.model.choice import LinearLayers, choose, chosen, rungs
from expunge.model.layers import shared_inputs
from expunge.model.select import moving, select
from problems import FAMILIES, config_of, lora_of, text_model

MLP = {
    "llama": {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
    "olmo": {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"},
    "gpt2": {"mlp.c_fc", "mlp.c_proj"},
    "opt": {"fc1", "fc2"},
}
DOWN = {"llama": "mlp.down_proj", "olmo": "mlp.down_proj", "gpt2": "mlp.c_proj", "opt": "fc2"}


def within(names: set[str], depth: int = 0) -> set[str]:
    """The names after that of their decoder layer, of one of them."""
    return {name.split(f".{depth}.", 1)[1] for name in names if f".{depth}." in name}


@pytest.mark.parametrize("family", FAMILIES)
def test_kinds_are_told_by_structure(family: str) -> None:
    model = text_model(family, layers=3)
    assert within(chosen(model, "mlp")) == MLP[family]
    assert within(chosen(model, "down")) == {DOWN[family]}
    assert within(chosen(model, "attention")) == within(chosen(model, "all")) - MLP[family]
    part = chosen(model, "mlp 1-2")
    assert within(part, 1) == within(part, 2) == MLP[family] and not within(part, 0)
    assert chosen(model, "all") == chosen(model, "attention") | chosen(model, "mlp")
    assert within(chosen(model, rf"\.1\.{DOWN[family]}$"), 1) == {DOWN[family]}


def test_of_an_adapter_they_are_those_of_the_layers_that_it_wraps() -> None:
    model = lora_of("llama")
    assert {name.rpartition(".")[2] for name in chosen(model, "down")} == {"down_proj"}
    moved = select(model, "adapter", torch.device("cpu"), linear="down").movable
    assert moved and all("down_proj.lora_" in name for name in moved)


@pytest.mark.parametrize("subspace", ["full", "lora", "*down_proj*"])
def test_only_those_move(subspace: str) -> None:
    moved = select(text_model("llama", layers=3), subspace, torch.device("cpu"), linear="down 1-1").movable
    assert moved and all(".1.mlp.down_proj" in name for name in moved)


@pytest.mark.parametrize(("which", "words"), [("(", "nor a regular expression"), ("[", "auto, all, mlp")])
def test_what_is_no_pattern_is_refused(which: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        choice.check(which)


def test_a_kind_of_which_there_is_none_is_refused() -> None:
    for which in ("down 7-9", "nowhere"):
        with pytest.raises(InputError, match="no linear layer is one of these"):
            chosen(text_model("llama"), which)


def test_kinds_come_before_depth() -> None:
    assert list(rungs(8)) == ["all", "mlp", "down", "down 2-5", "down 3-4", "down 3-3"]
    assert list(rungs(1)) == ["all", "mlp", "down"]


def by_number(shapes: Mapping[str, torch.Size], shared: Mapping[str, str]) -> int:
    """A million bytes a layer."""
    return 10**6 * len(shapes)


@pytest.mark.parametrize(
    ("left", "which", "layers"),
    [(57, "all", 28), (55, "mlp", 12), (23, "down", 4), (7, "down 1-2", 2), (3, "down 1-1", 1), (0, "down 1-1", 1)],
)
def test_auto_takes_the_first_that_fits_into_half_of_what_is_left(left: int, which: str, layers: int) -> None:
    model = text_model("llama", layers=4)  # 28 linear layers, 12 of MLPs; what moves of them is small beside a million
    asked = LinearLayers(which="auto", bytes=by_number)
    found = choose(model, asked, moving(model, "full"), left * 10**6, {})
    assert found == (which, layers, layers * 10**6)
    fixed = choose(model, LinearLayers(which="mlp", bytes=by_number), moving(model, "full"), 0, {})
    assert fixed.which == "mlp"  # what was asked for is not left to memory


@pytest.mark.parametrize(("tokens", "which"), [(0, "all"), (1000, "all"), (1001, "mlp"), (5000, "down")])
def test_tokens_of_the_request_count(tokens: int, which: str) -> None:
    """A thousand bytes of each in each layer, beside a million bytes a layer, in half of 112 million."""
    model = text_model("llama", layers=4)
    asked = LinearLayers(which="auto", bytes=by_number, by_token=lambda shapes, shared: 1000 * len(shapes))
    found = choose(model, asked, moving(model, "full"), 112 * 10**6, {}, tokens=tokens)
    assert found.which == which
    assert found.bytes == found.layers * (10**6 + 1000 * tokens)


def test_what_moves_counts_too() -> None:
    """Four copies of it beside the factors, in seven tenths of what is left."""
    model = text_model("llama", layers=4)
    sizes = {
        which: sum(shape.numel() for shape in moving(model, "full")(chosen(model, which)).values())
        for which in ("all", "mlp", "down")
    }
    asked = LinearLayers(which="auto", bytes=lambda shapes, shared: 0)
    for which, size in sizes.items():
        left = int(16 * size / 0.7) + 1
        assert choose(model, asked, moving(model, "full"), left, {}).which == which


def test_of_a_pattern_of_parameters_only_what_it_holds_counts() -> None:
    model = text_model("llama", layers=2)
    asked = LinearLayers(which="auto", bytes=by_number)
    found = choose(model, asked, moving(model, "*self_attn*"), 0, {})
    assert found.which == "all"  # it holds no layer of an MLP
    with pytest.raises(InputError, match="holds no weight of a linear layer"):
        choose(model, asked, moving(model, "*norm*"), 0, {})


@pytest.mark.parametrize("family", FAMILIES)
def test_shared_inputs_are_seen_without_data(family: str) -> None:
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        empty: Any = AutoModelForCausalLM.from_config(config_of(family))
    found = trace.shared_inputs(empty)
    assert found == shared_inputs(text_model(family))
    assert any(name != leader for name, leader in found.items()) == (family != "gpt2")
