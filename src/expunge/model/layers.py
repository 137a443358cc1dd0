"""A model's decoder layers and linear layers, found by type and not by name, so that any architecture works.

Shapes: I layer input, O layer output.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from expunge.errors import InputError

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


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


def of_text(model: "PreTrainedModel | PeftModel") -> Callable[[Tensor], bool]:
    """Whether a parameter is one that predicts text: of a composite model, of its decoder or its output head.

    A vision tower and what projects from it have no gradient by text, so they are never among what may move.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = getattr(base, "config", None)
    if config is None or config.get_text_config() is config:
        return lambda parameter: True
    parts = (base.get_decoder(), base.get_output_embeddings())
    known = {id(parameter) for part in parts if part is not None for parameter in part.parameters()}
    return lambda parameter: id(parameter) in known


def stack(model: nn.Module) -> Stack:
    """The outermost `nn.ModuleList` with the most parameters: experts and heads stand in lists too, but within layers
    or in smaller ones. Raises `InputError` where there is none."""
    found: list[tuple[int, Stack]] = []
    inside: list[str] = []
    own = of_text(model)
    for name, module in model.named_modules():
        if any(name.startswith(f"{outer}.") for outer in inside):
            continue
        for attribute, child in module.named_children():
            if isinstance(child, nn.ModuleList):
                path = f"{name}.{attribute}" if name else attribute
                inside.append(path)
                size = sum(parameter.numel() for parameter in child.parameters() if own(parameter))
                found.append((size, Stack(module, attribute, path)))
    if not found:
        raise InputError(
            f"{type(model).__name__}: no list of layers was found in this model, and this method moves or reads single "
            "layers. Use another --method."
        )
    return max(found, key=lambda pair: pair[0])[1]


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer whose weight may move: the parameter's name, O, I, and whether it is stored as [I, O]."""

    name: str
    outputs: int
    inputs: int
    transposed: bool = False

    def matrix(self, weight: Tensor) -> Tensor:
        """The weight, or anything of its shape, as [O, I]."""
        return weight.T if self.transposed else weight


def is_linear(module: nn.Module) -> bool:
    """Whether a module's output is its weight's product with its input (and a bias), stored as [O, I] or [I, O].

    Subclasses of `nn.Linear` with a forward of their own are tried: some multiply in their own way, others compute
    something else (by groups, quantised).
    """
    if type(module).forward in (nn.Linear.forward, Conv1D.forward):
        return True
    return isinstance(module, nn.Linear) and _multiplies(module)


@torch.no_grad()
def _multiplies(module: nn.Linear) -> bool:
    weight, bias = module.weight, module.bias
    if weight.dim() != 2 or not weight.is_floating_point():
        return False
    given = torch.linspace(-1, 1, weight.shape[1], device=weight.device).to(weight.dtype)[None, None]
    try:
        made, wanted = module(given), F.linear(given, weight, bias)
    except (RuntimeError, TypeError, ValueError, IndexError):
        return False
    if not isinstance(made, Tensor) or made.shape != wanted.shape:  # a router gives scores and choices
        return False
    return made.is_meta or torch.allclose(made, wanted, rtol=1e-2, atol=1e-4)


def linear_weights(model: nn.Module, movable: Mapping[str, Tensor]) -> dict[str, Linear]:
    """By name, in the model's order: weights of `nn.Linear` and GPT-2's `Conv1D`, a LoRA's matrices among them.

    The output head is none of them, nor what is tied to it: it is read by every target and would need factors as wide
    as the vocabulary.
    """
    own = of_text(model)
    names = {id(tensor): name for name, tensor in movable.items() if own(tensor)}
    head = getattr(model, "get_output_embeddings", lambda: None)()
    left_out = {id(tensor) for tensor in head.parameters()} if head is not None else set()
    found: dict[str, Linear] = {}
    for module in model.modules():
        if not is_linear(module):
            continue
        plain = not isinstance(module, Conv1D)
        weight: Any = module.weight
        if id(weight) in names and id(weight) not in left_out:
            name, (rows, columns) = names[id(weight)], weight.shape
            found[name] = Linear(name, rows, columns) if plain else Linear(name, columns, rows, transposed=True)
    return found


def shared_inputs(model: nn.Module) -> dict[str, str]:
    """`leaders` of all linear weights, in a pass over two tokens."""
    layers = linear_weights(model, dict(model.named_parameters()))
    ids = torch.zeros(1, 2, dtype=torch.long, device=next(model.parameters()).device)
    return leaders(model, layers, lambda: model(input_ids=ids, use_cache=False))


def unfit(model: nn.Module) -> dict[str, str]:
    """Linear weights that no pair of factors is defined for, and why: seen in a pass over two windows of three tokens.

    What is fit is called once in a pass, on every token of every window.
    """
    own = dict(model.named_parameters())
    names = {id(own[name]): name for name in linear_weights(model, own)}
    ids = torch.zeros(2, 3, dtype=torch.long, device=next(model.parameters()).device)
    calls: dict[str, list[bool]] = {name: [] for name in names.values()}

    def look(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        calls[names[id(module.weight)]].append(tuple(arguments[0].shape[:-1]) in ((2, 3), (2, 1, 3), (2, 3, 1), (6,)))

    _looking(model, names, look, lambda: model(input_ids=ids, use_cache=False))
    found = {name: _misfit(seen) for name, seen in calls.items()}
    return {name: reason for name, reason in found.items() if reason}


def _misfit(seen: Sequence[bool]) -> str:
    if not seen:
        return "not called"
    if len(seen) > 1:
        return f"called {len(seen)} times in one pass"
    return "" if seen[0] else "called on other than each token of each window"


def leaders(model: nn.Module, layers: Mapping[str, Linear], run: Callable[[], object]) -> dict[str, str]:
    """For each linear layer the first that gets the very same input (q, k and v do), in the pass that `run` makes."""
    own = dict(model.named_parameters())
    names = {id(own[name]): name for name in layers}
    seen: dict[tuple[Any, ...], str] = {}
    found: dict[str, str] = {}
    alive: list[Any] = []  # while an input lives, its storage is nobody else's

    def look(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        name, came_in = names[id(module.weight)], arguments[0]
        alive.append(came_in)
        key = (came_in.untyped_storage()._cdata, came_in.storage_offset(), tuple(came_in.shape))
        found[name] = seen.setdefault(key, name)

    _looking(model, names, look, run)
    return {name: found.get(name, name) for name in layers}


def _looking(
    model: nn.Module,
    names: Mapping[int, str],
    look: Callable[[nn.Module, tuple[Tensor, ...]], None],
    run: Callable[[], object],
) -> None:
    """Runs a pass in which `look` sees what comes into each layer whose weight has a name."""
    # A LoRA's wrapper shows the weight of what it wraps as its own, and is no linear layer.
    owners = [one for one in model.modules() if is_linear(one) and id(one.weight) in names]
    handles = [module.register_forward_pre_hook(look) for module in owners]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
