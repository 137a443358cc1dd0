"""The room for keys and values holds what the library's own growing cache holds."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import DynamicCache, MambaConfig, MambaForCausalLM, MistralConfig, MistralForCausalLM

from expunge.model import key_values
from expunge.model.key_values import with_room

FAMILIES = ("make_llama", "make_gpt2", "make_opt")


@pytest.fixture(params=FAMILIES)
def model(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)().eval()


@torch.no_grad()
def logits_of(model: Any, cache: Any) -> torch.Tensor:
    """Logits of three parts of a text, read one after another with a cache: [2, 5], [2, 1] and [2, 4] ids."""
    ids = torch.randint(2, 258, (2, 10), generator=torch.Generator().manual_seed(0))
    found = [
        model(input_ids=part, past_key_values=cache, use_cache=True).logits for part in ids.split([5, 1, 4], dim=1)
    ]
    assert cache.get_seq_length() == 10
    return torch.cat(found, dim=1)


def check(model: Any, most: int) -> None:
    own = DynamicCache(config=model.config)
    cache = with_room(model, most)
    assert cache is not None
    torch.testing.assert_close(logits_of(model, cache), logits_of(model, own))
    for ours, theirs in zip(cache.layers, own.layers, strict=True):
        torch.testing.assert_close(ours.keys, theirs.keys)
        torch.testing.assert_close(ours.values, theirs.values)


@pytest.mark.parametrize("most", [10, 64, 7, 1])  # just enough, more, and too few: then more room is made
def test_holds_what_the_growing_cache_holds(model: Any, most: int) -> None:
    check(model, most)


def test_nothing_is_copied_while_there_is_room(make_llama: Callable[..., Any]) -> None:
    model = make_llama().eval()
    cache = with_room(model, 4)
    assert cache is not None
    with torch.no_grad():
        places = []
        for token in (5, 6, 7, 8, 9):
            model(input_ids=torch.tensor([[token]]), past_key_values=cache, use_cache=True)
            places.append([layer.keys.data_ptr() for layer in cache.layers])
    assert places[0] == places[1] == places[2] == places[3]
    assert places[4] != places[3]  # the fifth does not fit


def test_check_rejects_a_cache_that_loses_what_it_held(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = key_values._Room.update

    def forgetting(self: Any, keys: Any, values: Any, *more: Any, **named: Any) -> Any:
        found = plain(self, keys, values, *more, **named)
        self.keys[:, :, 0] = 0
        return found

    monkeypatch.setattr(key_values._Room, "update", forgetting)
    with pytest.raises(AssertionError):
        check(model, 10)


def test_other_caches_are_left_to_the_library() -> None:
    small = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2}
    sliding = MistralForCausalLM(
        MistralConfig(
            **small, intermediate_size=64, num_attention_heads=2, num_key_value_heads=2, head_dim=16, sliding_window=4
        )
    )
    assert with_room(sliding, 16) is None
    assert with_room(MambaForCausalLM(MambaConfig(**small, state_size=4)), 16) is None
    assert with_room(torch.nn.Linear(2, 2), 16) is None


def test_layers_of_another_type_are_left_to_the_library(make_llama: Callable[..., Any]) -> None:
    """Older versions of the library take every type that they do not know for a plain layer."""
    model = make_llama()
    assert with_room(model, 16) is not None
    model.config.layer_types = ["full_attention"] * (model.config.num_hidden_layers - 1) + ["linear_attention"]
    assert with_room(model, 16) is None
