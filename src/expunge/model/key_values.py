"""Keys and values of a generation, in room that is made ahead.

The library's growing cache joins what it holds with what is new at every token, so it copies everything there is once a
token, which costs the more, the more prompts there are and the longer they get (docs/results/generation.md). Here the
whole room is made at the first token, and what is new is written behind what is there. The values are the same.

Shapes: B prompts, H heads, T tokens so far, D width of a head.
"""

from typing import TYPE_CHECKING

from torch import Tensor
from transformers.cache_utils import DynamicCache, DynamicLayer

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class _Room(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values [B, H, T, D]: the first T places of a room of `most`; where those are too few, of a
    larger one."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self._rooms: tuple[Tensor, ...] = ()

    def update(self, key_states: Tensor, value_states: Tensor, *_: object, **__: object) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        begin = self.get_seq_length()
        end = begin + key_states.shape[2]
        if not self._rooms or end > self._rooms[0].shape[2]:
            held: tuple[Tensor, Tensor] = (self.keys, self.values)  # type: ignore[has-type]
            self._rooms = tuple(_wider(new, max(self.most, end)) for new in (key_states, value_states))
            if begin:
                for room, old in zip(self._rooms, held, strict=True):
                    room[:, :, :begin] = old
        for room, new in zip(self._rooms, (key_states, value_states), strict=True):
            room[:, :, begin:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._rooms)
        return self.keys, self.values


def _wider(states: Tensor, most: int) -> Tensor:
    return states.new_empty((*states.shape[:2], most, states.shape[3]))


def with_room(model: "PreTrainedModel | PeftModel", most: int) -> DynamicCache | None:
    """An empty cache with room for `most` tokens; None where the model's own is not one of plain layers throughout
    (sliding windows, recurrent states), so that `generate` makes it."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    supports = getattr(inner, "_supports_default_dynamic_cache", None)
    if supports is None or not supports() or getattr(inner, "_is_stateful", False) or inner.config.is_encoder_decoder:
        return None
    config = inner.config.get_text_config(decoder=True)
    if not hasattr(config, "num_hidden_layers"):  # of several stacks
        return None
    cache = DynamicCache(config=config)
    plain = all(kind == "full_attention" for kind in getattr(config, "layer_types", None) or ())
    if not plain or not cache.layers or any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    cache.layers = [_Room(most) for _ in cache.layers]
    return cache
