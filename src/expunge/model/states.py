"""The hidden states that a decoder layer hands to the next one. The forward pass goes no further than that layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from expunge.data.batches import Batch
from expunge.errors import InputError
from expunge.model.layers import stack


class _Reached(Exception):
    """Carries the hidden states out of the forward pass."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


class _Stop(nn.Module):
    """Stands in for the layer after the one that is asked for; what models look up on their layers is that layer's.

    A module of its own and no hook: with gradient checkpointing hooks run inside of what is computed again, and an
    exception there would leave it half done.
    """

    def __init__(self, instead: nn.Module) -> None:
        super().__init__()
        self.__dict__["_instead"] = instead  # not as a child: its parameters stay where they are

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_instead"], name)

    def forward(self, *arguments: Tensor, **others: Tensor) -> Tensor:
        raise _Reached(arguments[0] if arguments else others["hidden_states"])


def hidden_states(model: nn.Module, batch: Batch, layer: int) -> Tensor:
    """States [B, T, D] after 0-based `layer`, which must not be the last; with a graph where gradients are recorded.

    Raises `InputError` for a layer that the model does not have.
    """
    with _stopping_after(model, layer):
        try:
            model(input_ids=batch.ids, attention_mask=batch.attention.long(), use_cache=False)
        except _Reached as reached:
            return reached.states
    raise InputError(f"{type(model).__name__}: its forward pass does not run its layers in turn. Use another --method.")


@contextmanager
def _stopping_after(model: nn.Module, layer: int) -> Iterator[None]:
    found = stack(model)
    layers = found.layers
    if not 0 <= layer < len(layers) - 1:
        raise InputError(
            f"layer {layer}: expected one from 0 to {len(layers) - 2}; the model has {len(layers)}, and the states are "
            "read between two of them."
        )
    setattr(found.parent, found.attribute, nn.ModuleList([*layers[: layer + 1], _Stop(layers[layer + 1])]))
    try:
        yield
    finally:
        setattr(found.parent, found.attribute, layers)
