"""Decoder layers by type, and hidden states of one of them: what transformers gives, and no layer further."""

from typing import Any

import pytest
import torch
from torch import nn

from expunge.data.batches import collate
from expunge.errors import InputError
from expunge.model.layers import stack
from expunge.model.recompute import recompute_layers
from expunge.model.states import hidden_states
from problems import FAMILIES, lora_of, model_of, split_of, text_model

SPLIT = split_of("retain", (1, 2, 1), 3)


def batch() -> Any:
    return collate("retain", SPLIT.windows, range(len(SPLIT.windows)))


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_those_that_transformers_gives(family: str) -> None:
    """`hidden_states[0]` are the embeddings, `[1]` what comes out of layer 0."""
    model = text_model(family, layers=3)
    rows = batch()
    with torch.no_grad():
        given = model(input_ids=rows.ids, attention_mask=rows.attention.long(), output_hidden_states=True).hidden_states
        for layer in (0, 1):
            found = hidden_states(model, rows, layer)
            assert torch.equal(found[rows.attention], given[layer + 1][rows.attention])
            assert not torch.equal(found[rows.attention], given[layer][rows.attention])  # one layer too early


def test_no_later_layer_runs_and_the_model_is_as_it_was() -> None:
    model = text_model("llama", layers=4)
    ran: list[int] = []
    for place, layer in enumerate(model.model.layers):
        layer.register_forward_hook(lambda *arguments, place=place: ran.append(place))
    layers = model.model.layers
    hidden_states(model, batch(), 1)
    assert ran == [0, 1]
    assert model.model.layers is layers and len(layers) == 4
    model(batch().ids)
    assert ran == [0, 1, 0, 1, 2, 3]


def test_gradients_reach_the_layers_below_and_no_others() -> None:
    model = model_of("llama")
    hidden_states(model, batch(), 0).sum().backward()
    reached = {name for name, tensor in model.named_parameters() if tensor.grad is not None}
    assert {name for name in reached if ".layers." in name} == {
        name for name, _ in model.named_parameters() if ".layers.0." in name
    }


def test_gradients_are_the_same_with_gradient_checkpointing() -> None:
    found = []
    for recomputed in (False, True):
        model = text_model("llama", layers=3)
        if recomputed:
            recompute_layers(model)
            model.train()
        hidden_states(model, batch(), 1).square().sum().backward()
        found.append({name: tensor.grad for name, tensor in model.named_parameters() if tensor.grad is not None})
    assert found[0].keys() == found[1].keys() and found[0]
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-6) for name in found[0])


def test_through_an_adapter() -> None:
    model = lora_of("llama")
    on = hidden_states(model, batch(), 0)
    with model.disable_adapter():
        off = hidden_states(model, batch(), 0)
    assert not torch.allclose(on, off)


@pytest.mark.parametrize("layer", [-1, 1, 7])
def test_layers_that_there_are_not_are_refused(layer: int) -> None:
    """The last one too: nothing comes after it to stop at."""
    with pytest.raises(InputError, match=r"expected one from 0 to 0; the model has 2"):
        hidden_states(text_model("llama"), batch(), layer)


@pytest.mark.parametrize(
    ("family", "name"),
    [("llama", "model.layers"), ("olmo", "model.layers"), ("gpt2", "transformer.h"), ("opt", "model.decoder.layers")],
)
def test_layers_are_found_by_type(family: str, name: str) -> None:
    found = stack(text_model(family, layers=3))
    assert (found.name, found.names()) == (name, [f"{name}.{place}" for place in range(3)])
    assert stack(lora_of(family)).name == f"base_model.model.{name}"


def test_experts_and_small_lists_are_not_taken_for_layers() -> None:
    class Expert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.experts = nn.ModuleList([nn.Linear(8, 8) for _ in range(5)])

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads = nn.ModuleList([nn.Linear(2, 2) for _ in range(9)])
            self.blocks = nn.ModuleList([Expert() for _ in range(2)])

    assert stack(Model()).names() == ["blocks.0", "blocks.1"]
    with pytest.raises(InputError, match="no list of layers"):
        stack(nn.Linear(2, 2))
