"""Subspaces: linear layers by type on three architectures, never the embeddings or the output head."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from expunge.errors import InputError
from expunge.model import select as module
from expunge.model.select import FULL_COPIES, MEMORY_SHARE, choose, linear_layers, select

CPU = torch.device("cpu")
IDS = torch.tensor([[0, 40, 41, 42, 1]])
LLAMA = [f"model.layers.{layer}.{name}" for layer in (0, 1) for name in (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)]  # fmt: skip
GPT2 = [f"transformer.h.{layer}.{name}" for layer in (0, 1) for name in (
    "attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj",
)]  # fmt: skip
OPT = [f"model.decoder.layers.{layer}.{name}" for layer in (0, 1) for name in (
    "self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj", "fc1", "fc2",
)]  # fmt: skip
FAMILIES = [("make_llama", LLAMA), ("make_gpt2", GPT2), ("make_opt", OPT)]


def check_layers(layers: Callable[[Any], list[str]], model: Any, wanted: list[str]) -> None:
    assert sorted(layers(model)) == sorted(wanted)


@pytest.mark.parametrize(("family", "wanted"), FAMILIES)
def test_linear_layers_are_found_by_type(family: str, wanted: list[str], request: pytest.FixtureRequest) -> None:
    model = request.getfixturevalue(family)()
    check_layers(linear_layers, model, wanted)

    def with_head(model: Any) -> list[str]:
        return [*linear_layers(model), next(n for n, m in model.named_modules() if m is model.get_output_embeddings())]

    def linear_only(model: Any) -> list[str]:
        head = model.get_output_embeddings()
        return [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and m is not head]

    with pytest.raises(AssertionError):
        check_layers(with_head, model, wanted)
    if family == "make_gpt2":  # its layers are Conv1D
        with pytest.raises(AssertionError):
            check_layers(linear_only, model, wanted)


def test_an_untied_head_is_left_out(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    config = model.config
    untied = type(model)(type(config)(**(config.to_dict() | {"tie_word_embeddings": False})))
    assert untied.lm_head.weight is not untied.model.embed_tokens.weight
    check_layers(linear_layers, untied, LLAMA)


def test_a_model_without_linear_layers_is_refused() -> None:
    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = torch.nn.Linear(2, 2)

        def get_output_embeddings(self) -> torch.nn.Module:
            return self.head

    with pytest.raises(InputError, match="--subspace full"):
        linear_layers(Head())


@pytest.mark.parametrize(("family", "wanted"), FAMILIES)
def test_lora_moves_its_matrices_and_nothing_else(
    family: str, wanted: list[str], request: pytest.FixtureRequest
) -> None:
    make = request.getfixturevalue(family)
    before = {name: tensor.clone() for name, tensor in make().named_parameters()}
    with torch.no_grad():
        logits = make()(IDS).logits
    subspace = select(make(), "lora", CPU)
    model = subspace.model
    assert (subspace.name, subspace.reason, subspace.adapter) == ("lora", "asked for", True)
    assert sorted(subspace.movable) == sorted(
        f"base_model.model.{name}.lora_{half}.default.weight" for name in wanted for half in "AB"
    )
    assert torch.equal(model(IDS).logits, logits)  # B starts at zero
    model(IDS, labels=IDS).loss.backward()
    assert all(subspace.movable[name].grad.abs().sum() > 0 for name in subspace.movable if "lora_B" in name)
    torch.optim.SGD(subspace.movable.values(), lr=1.0).step()
    assert not torch.equal(model(IDS).logits, logits)
    with model.disable_adapter():
        assert torch.equal(model(IDS).logits, logits)
    plain = model.get_base_model()
    assert plain.get_output_embeddings().weight is plain.get_input_embeddings().weight
    kept = {name.replace(".base_layer", ""): tensor for name, tensor in plain.named_parameters() if "lora" not in name}
    assert kept.keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) and tensor.grad is None for name, tensor in kept.items())


def test_lora_is_float32_on_a_half_precision_model(make_llama: Callable[..., Any]) -> None:
    subspace = select(make_llama().bfloat16(), "lora", CPU)
    assert {tensor.dtype for tensor in subspace.movable.values()} == {torch.float32}
    assert all(tensor.requires_grad and tensor is dict(subspace.model.named_parameters())[name]
               for name, tensor in subspace.movable.items())  # fmt: skip


def test_full_moves_everything(make_llama: Callable[..., Any]) -> None:
    model = make_llama().requires_grad_(False)
    subspace = select(model, "full", CPU)
    assert subspace.model is model and not subspace.adapter
    assert subspace.movable.keys() == dict(model.named_parameters()).keys()
    assert all(tensor.requires_grad for tensor in model.parameters())


def test_patterns_move_what_they_name(make_llama: Callable[..., Any]) -> None:
    model = make_llama()
    subspace = select(model, "model.layers.1.mlp.*", CPU)
    assert sorted(subspace.movable) == [f"model.layers.1.mlp.{n}_proj.weight" for n in ("down", "gate", "up")]
    free = [name for name, tensor in model.named_parameters() if tensor.requires_grad]
    assert sorted(free) == sorted(subspace.movable)


@pytest.mark.parametrize("pattern", ["model.layers.7.*", "MODEL.*", "lm_head.weight.x"])
def test_patterns_that_match_nothing_are_refused(make_llama: Callable[..., Any], pattern: str) -> None:
    with pytest.raises(InputError) as caught:
        select(make_llama(), pattern, CPU)
    assert pattern in str(caught.value) and "model.embed_tokens.weight" in str(caught.value)


@pytest.mark.parametrize(("parameters", "name"), [(520, "full"), (530, "lora")])
def test_auto_goes_by_memory(monkeypatch: pytest.MonkeyPatch, parameters: int, name: str) -> None:
    # 24,000 bytes are free, 70 % of them 16,800; eight float32 copies take 32 bytes a parameter: 525 parameters
    assert (FULL_COPIES, MEMORY_SHARE) == (8, 0.7)
    monkeypatch.setattr(module, "free_memory", lambda device: 24_000)
    chosen, reason = choose("auto", parameters, CPU)
    assert chosen == name and "GiB" in reason
    for asked in ("full", "lora", "model.*"):
        assert choose(asked, parameters, CPU) == (asked, "asked for")


def test_auto_reaches_the_model(monkeypatch: pytest.MonkeyPatch, make_llama: Callable[..., Any]) -> None:
    monkeypatch.setattr(module, "free_memory", lambda device: 1000)
    assert select(make_llama(), "auto", CPU).adapter
    monkeypatch.setattr(module, "free_memory", lambda device: 10**12)
    assert not select(make_llama(), "auto", CPU).adapter


def test_free_memory_is_that_of_the_machine() -> None:
    assert 10**7 < module.free_memory(CPU) < 10**14
