"""Subspaces: linear layers by type on three architectures, never the embeddings or the output head."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers.pytorch_utils import Conv1D

from expunge.errors import InputError
from expunge.model import select as module
from expunge.model.layers import linear_weights
from expunge.model.select import (
    FULL_COPIES,
    MEMORY_SHARE,
    check_subspace,
    choose,
    choose_of_adapter,
    linear_layers,
    moving,
    select,
)
from expunge.runs import memory
from problems import lora_of

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


def test_a_lora_with_settings_stands_on_its_targets(make_llama: Callable[..., Any]) -> None:
    """Rank, scale and layers as peft has them; ends of names, and names in full."""
    asked = "lora:r=3,alpha=6,targets=q_proj+model.layers.1.mlp.up_proj"
    subspace = select(make_llama(), asked, CPU)
    wanted = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"]
    assert subspace.name == asked
    assert sorted(subspace.movable) == sorted(
        f"base_model.model.{name}.lora_{half}.default.weight" for name in wanted for half in "AB"
    )
    modules = dict(subspace.model.named_modules())
    layer = modules[f"base_model.model.{wanted[0]}"]
    assert layer.r["default"] == 3 and layer.scaling["default"] == 2.0
    shapes = moving(make_llama(), asked)(linear_layers(make_llama()))
    assert {name: shape[1] for name, shape in shapes.items()} == {f"{name}.lora_B": 3 for name in wanted}
    with pytest.raises(InputError, match=r"no linear layer is called roj\. There are down_proj, gate_proj, k_proj"):
        select(make_llama(), "lora:targets=roj", CPU)
    with pytest.raises(InputError, match="none of its targets is a layer that this method moves"):
        select(make_llama(), "lora:targets=q_proj", CPU, linear="mlp")


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
    # 24,000 bytes are usable, 70 % of them 16,800; eight float32 copies take 32 bytes a parameter: 525 parameters
    assert (FULL_COPIES, MEMORY_SHARE) == (8, 0.7)
    monkeypatch.setattr(memory, "usable", lambda device: 24_000)
    chosen, reason = choose("auto", parameters, CPU)
    assert chosen == name and "GiB" in reason
    for asked in ("full", "lora", "model.*"):
        assert choose(asked, parameters, CPU) == (asked, "asked for")


def test_auto_reaches_the_model(monkeypatch: pytest.MonkeyPatch, make_llama: Callable[..., Any]) -> None:
    monkeypatch.setattr(memory, "usable", lambda device: 1000)
    assert select(make_llama(), "auto", CPU).adapter
    monkeypatch.setattr(memory, "usable", lambda device: 10**12)
    assert not select(make_llama(), "auto", CPU).adapter


def effective(model: Any) -> dict[str, torch.Tensor]:
    """Base plus s B A by plain arithmetic, of a LoRA of rank 2 and alpha 3; what it does not touch as it is."""
    found = {}
    for name, layer in model.get_base_model().named_modules():
        if hasattr(layer, "lora_A"):
            product = layer.lora_B["default"].weight @ layer.lora_A["default"].weight
            weight = layer.base_layer.weight
            found[f"{name}.weight"] = weight + 1.5 * (product if product.shape == weight.shape else product.T)
        elif isinstance(layer, torch.nn.Linear | Conv1D) and "lora" not in name and "base_layer" not in name:
            found[f"{name}.weight"] = layer.weight
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def check_merged(subspace: Any, wanted: dict[str, torch.Tensor]) -> None:
    assert subspace.name == "full" and not subspace.adapter
    assert subspace.movable.keys() <= wanted.keys()
    assert all(torch.allclose(tensor, wanted[name], atol=1e-12) for name, tensor in subspace.movable.items())


@pytest.mark.parametrize("family", ["llama", "olmo", "gpt2", "opt"])
def test_an_adapter_is_merged_for_methods_of_linear_layers(family: str) -> None:
    model = lora_of(family)
    ids = torch.tensor([[0, 4, 2, 7]])
    wanted, logits = effective(model), model(ids).logits.detach()
    subspace = select(model, "auto", CPU, linear="all")
    check_merged(subspace, wanted)
    assert len(subspace.movable) == len(linear_layers(subspace.model))
    assert torch.allclose(subspace.model(ids).logits, logits, atol=1e-10)
    assert [name for name, tensor in subspace.model.named_parameters() if tensor.requires_grad] == [*subspace.movable]


@pytest.mark.parametrize("wrong", ["no scale", "exchanged", "not merged"])
def test_a_wrong_merge_would_be_seen(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lora_of("llama")
    wanted = effective(model)

    def merge(model: Any, adapter: bool) -> Any:
        for layer in model.modules():
            if hasattr(layer, "lora_A") and wrong == "no scale":
                layer.scaling["default"] = 1.0
            elif hasattr(layer, "lora_A") and wrong == "not merged":
                layer.lora_B["default"].weight.data.zero_()
            elif hasattr(layer, "lora_A") and layer.base_layer.weight.shape == (8, 8):
                first, second = layer.lora_A["default"].weight, layer.lora_B["default"].weight
                first.data, second.data = second.data.T.clone(), first.data.T.clone()
        return right(model, adapter)

    right = module.merge
    monkeypatch.setattr(module, "merge", merge)
    with pytest.raises(AssertionError):
        check_merged(select(model, "auto", CPU, linear="all"), wanted)


def test_which_way_an_adapter_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole weights for methods of linear layers that fit and are not quantised; where asked, as asked."""

    def way(asked: str = "auto", linear: bool = True, scheme: str | None = None, free: int = 10**9) -> str:
        return choose_of_adapter(asked, linear, scheme, 1000, CPU, free)[0]

    assert way() == way("full") == way("full", linear=False) == "full"
    assert way("adapter") == way(linear=False) == way(scheme="bitsandbytes") == way(free=1000) == "adapter"
    with pytest.raises(InputError, match=r"base is quantised \(bitsandbytes\).*--adapter-base"):
        check_subspace("full", True, "bitsandbytes")
    with pytest.raises(InputError, match="own matrices move"):
        check_subspace("lora", True)


class Packed(torch.nn.Linear):
    """A linear layer as quantisation libraries have it: a subclass with numbers of 8 bits and a forward of its own."""

    def __init__(self, plain: torch.nn.Linear) -> None:
        super().__init__(plain.in_features, plain.out_features, bias=False)
        self.scale = float(plain.weight.detach().abs().max()) / 127
        packed = (plain.weight.detach() / self.scale).round().to(torch.int8)
        self.weight = torch.nn.Parameter(packed, requires_grad=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ (self.scale * self.weight.to(x.dtype)).T


def pack(model: Any) -> None:
    for name, layer in list(model.named_modules()):
        if type(layer) is torch.nn.Linear and "lora" not in name and "lm_head" not in name:
            parent, _, own = name.rpartition(".")
            setattr(model.get_submodule(parent), own, Packed(layer))
    model.config.quantization_config = {"quant_method": "bitsandbytes", "load_in_8bit": True}


def test_over_a_quantised_base_its_own_matrices_move() -> None:
    model = lora_of("llama")
    pack(model)
    subspace = select(model, "auto", CPU, linear="all")
    assert subspace.name == "adapter" and "bitsandbytes weights cannot move" in subspace.reason
    assert subspace.movable and all("lora_" in name for name in subspace.movable)
    assert linear_weights(model, dict(model.named_parameters())).keys() == subspace.movable.keys()
