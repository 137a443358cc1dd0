"""A model's decoder layers, found by type and not by name, so that any architecture works."""

from dataclasses import dataclass
from typing import Any

from torch import nn

from expunge.errors import InputError


@dataclass(frozen=True, slots=True)
class Stack:
    """The list of the decoder layers: the module that has it, under which attribute, and its name in the model."""

    parent: nn.Module
    attribute: str
    name: str

    @property
    def layers(self) -> nn.ModuleList:
        found: nn.ModuleList = getattr(self.parent, self.attribute)
        return found

    def names(self) -> list[str]:
        """The layers' names in the model; that of the one next to the embeddings first."""
        return [f"{self.name}.{index}" for index in range(len(self.layers))]


def stack(model: Any) -> Stack:
    """The outermost `nn.ModuleList` with the most parameters: experts and heads stand in lists too, but within layers
    or in smaller ones. Raises `InputError` where there is none."""
    found: list[tuple[int, Stack]] = []
    inside: list[str] = []
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer in inside):
            continue
        for attribute, child in module.named_children():
            if isinstance(child, nn.ModuleList):
                path = f"{name}.{attribute}" if name else attribute
                inside.append(path)
                size = sum(parameter.numel() for parameter in child.parameters())
                found.append((size, Stack(module, attribute, path)))
    if not found:
        raise InputError(
            f"{type(model).__name__}: no list of layers was found in this model, and this method moves or reads single "
            "layers. Use another --method."
        )
    return max(found, key=lambda pair: pair[0])[1]
