"""Which parameters may move: all of them, LoRA on every linear layer but the output head, or those of a pattern.

Of an adapter that was given as the model, its own matrices move, or it is merged in memory and whole weights move; no
second LoRA is added.

Linear layers are found by type (`nn.Linear`, GPT-2's `Conv1D`), never by name, so any architecture works.
"""

import contextlib
import fnmatch
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model, inject_adapter_in_model
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from expunge.config import lora
from expunge.config.lora import Lora
from expunge.errors import InputError
from expunge.model import choice, quantised
from expunge.model.layers import is_linear, linear_weights, of_text, stack
from expunge.model.save import merge
from expunge.runs import distributed, memory

FULL_COPIES = 8  # weights, gradients, two AdamW moments, up to four snapshots: all float32
MEMORY_SHARE = 0.7
WORDS = ("auto", "full", "adapter")  # subspaces that are no pattern of names
OWN = "the model is an adapter, whose own matrices move; its base stays as it is"
MERGED = "the model is an adapter, which is merged in memory: whole weights move, beside what its matrices can reach"


@dataclass(frozen=True, slots=True)
class Subspace:
    """The model (wrapped, for LoRA), its movable parameters by name, and what was chosen and why.

    `adapter` says that the wrapping is our own, so that the original is the model with it off.
    """

    model: Any
    movable: dict[str, torch.Tensor]
    name: str
    reason: str
    adapter: bool


def choose(asked: str, parameters: int, device: torch.device, size: int | None = None) -> tuple[str, str]:
    """Resolves `auto`: full weights where eight float32 copies of them fit in 70 % of the usable memory, else LoRA.

    `size` bytes stand for the device's own where they are given.
    """
    if asked != "auto":
        return asked, "asked for"
    need, size = parameters * 4 * FULL_COPIES, memory.usable(device) if size is None else size
    figures = f"{need / 2**30:.1f} of {size / 2**30:.1f} GiB"
    if need <= MEMORY_SHARE * size:
        return "full", f"full weights and their optimiser fit in memory ({figures})"
    return "lora", f"full weights and their optimiser would not fit in memory ({figures})"


def choose_of_adapter(
    asked: str, linear: bool, scheme: str | None, parameters: int, device: torch.device, size: int | None = None
) -> tuple[str, str]:
    """Resolves `auto` for an adapter: its own matrices, unless the method moves linear layers alone (`linear`).

    Then it is merged and whole weights move, where they fit in memory and the base is not quantised (`scheme`).
    """
    if asked == "full":
        return asked, MERGED
    if asked == "adapter" or not linear:
        return "adapter", OWN
    if scheme:
        return "adapter", f"{OWN}: {scheme} weights cannot move"
    name, reason = choose("auto", parameters, device, size)
    return ("full", f"{MERGED}; {reason}") if name == "full" else ("adapter", f"{OWN}; {reason}")


class Opened(NamedTuple):
    """The model of which a subspace is chosen, the subspace as far as that decided, and why ("": nothing was)."""

    model: Any
    asked: str
    reason: str


def opened(model: PreTrainedModel | PeftModel, asked: str, linear: bool, device: torch.device) -> Opened:
    """An adapter as it is, or merged into its base where whole weights are to move (see `choose_of_adapter`).

    Raises `InputError` for a subspace that the kind of model does not have.
    """
    check_subspace(asked, isinstance(model, PeftModel), scheme := quantised.scheme(model.config))
    if not isinstance(model, PeftModel):
        return Opened(model, asked, "")
    count = sum(parameter.numel() for parameter in model.parameters())
    name, reason = choose_of_adapter(asked, linear, scheme, count, device)
    return Opened(merge(model, adapter=True) if name == "full" else model, name, reason)


def check_subspace(asked: str, is_adapter: bool, scheme: str | None = None) -> None:
    """Raises `InputError` for a subspace that the kind of model does not have."""
    if is_adapter and asked not in ("auto", "adapter", "full"):
        raise InputError(
            f"--subspace {asked}: the model is an adapter: its own matrices move (adapter), or the whole weights of "
            "base and adapter together (full). To move other parameters, merge it into its base first."
        )
    if is_adapter and asked == "full" and scheme:
        raise InputError(
            f"--subspace full: the adapter's base is quantised ({scheme}), so its weights cannot move. Use --subspace "
            "adapter, or name the unquantised base with --adapter-base."
        )
    if asked == "adapter" and not is_adapter:
        raise InputError("--subspace adapter: the model is no adapter. Use auto, full, lora or a pattern.")


def select(
    model: PreTrainedModel | PeftModel,
    asked: str,
    device: torch.device,
    layers: Callable[[int], Sequence[int]] | None = None,
    linear: str = "",
    unfit: Collection[str] = (),
    kept: bool = False,
) -> Subspace:
    """Freezes everything but the chosen subspace. Raises `InputError` where it holds no parameter.

    A pattern matches parameter names with shell wildcards ("model.layers.3.*"). LoRA's B starts at zero, so at first
    only B has a gradient, and the wrapped model is exactly the original. `layers`: given how many decoder layers there
    are, those that a method moves at most; `linear`: weights of linear layers of that kind or pattern alone
    (see `model.choice`), the output head excepted, and but for those that are `unfit`. The subspace is then what it
    holds of them. `kept`: a LoRA of our own is to be an adapter that peft reads, so only layers that peft can name.
    """
    model, asked, merged = opened(model, asked, bool(linear), device)
    within = _within(model, layers, linear, unfit)
    if isinstance(model, PeftModel):
        return _own(model, merged, within)
    name, reason = choose(asked, sum(parameter.numel() for parameter in model.parameters()), device)
    reason = merged or reason
    if lora.is_lora(name):
        return _lora(model, lora.of(name), reason, within, kept)
    own = of_text(model)
    movable = {
        key: tensor
        for key, tensor in model.named_parameters()
        if tensor.is_floating_point() and within(key) and (name == "full" or fnmatch.fnmatchcase(key, name))
        if own(tensor)
    }
    if not movable:
        raise InputError(_nothing(name, model))
    model.requires_grad_(False)
    for tensor in movable.values():
        tensor.requires_grad_(True)
    return Subspace(model, movable, name, reason, adapter=False)


def moving(model: nn.Module, subspace: str) -> Callable[[Iterable[str]], dict[str, torch.Size]]:
    """Given names of linear layers, the shapes of the weights that have a gradient at first, if those may move; of
    a model on which our own LoRA is not yet, of that B alone."""
    weights = dict(model.named_parameters())
    given = isinstance(model, PeftModel)

    def shapes(names: Iterable[str]) -> dict[str, torch.Size]:
        linear, wanted = linear_weights(model, weights), set(names)
        if lora.is_lora(subspace) and not given:
            found, asked = {choice.layer_of(name): one for name, one in linear.items()}, lora.of(subspace)
            held = filter(asked.holds, wanted)
            return {f"{name}.lora_B": torch.Size((found[name].outputs, asked.r)) for name in held}
        return {
            name: weights[name].shape
            for name in linear
            if choice.layer_of(name) in wanted
            and (weights[name].requires_grad if given else subspace == "full" or fnmatch.fnmatchcase(name, subspace))
        }

    return shapes


def _within(
    model: nn.Module, layers: Callable[[int], Sequence[int]] | None, linear: str = "", unfit: Collection[str] = ()
) -> Callable[[str], bool]:
    """Whether a module or parameter of that name may move."""
    if linear:
        weights = linear_weights(model, dict(model.named_parameters())).keys()
        wanted = choice.chosen(model, linear, unfit)
        within = _within(model, layers)
        return lambda name: within(name) and (name in wanted or (name in weights and choice.layer_of(name) in wanted))
    if layers is None:
        return lambda name: True
    names = stack(model).names()
    chosen = tuple(f"{names[index]}." for index in layers(len(names)))
    return lambda name: f"{name}.".startswith(chosen)


def _lora(model: PreTrainedModel, asked: Lora, reason: str, within: Callable[[str], bool], kept: bool) -> Subspace:
    """A fresh LoRA of our own on the linear layers, in float32."""
    names = [name for name in targeted(model, asked) if within(name)]
    if not names:
        raise InputError(f"--subspace {asked}: none of its targets is a layer that this method moves.")
    if kept and (odd := unnameable(model, names)):
        names = [name for name in names if name not in odd]
        reason += f"; {len(odd)} layers that peft has no adapter for stay ({odd[0]})"
    config = LoraConfig(
        r=asked.r,
        lora_alpha=asked.alpha,
        target_modules=names,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
    )
    with _without_family(model.config):
        wrapped = get_peft_model(model.requires_grad_(False), config)
    movable = {name: tensor for name, tensor in wrapped.named_parameters() if tensor.requires_grad}
    with torch.no_grad():
        for tensor in movable.values():
            tensor.data = tensor.data.float()
    distributed.as_main_(movable.values())
    return Subspace(wrapped, movable, str(asked), reason, adapter=True)


@contextlib.contextmanager
def _without_family(config: PreTrainedConfig) -> Iterator[None]:
    """Hides a model's type from peft, which takes some names of some families for those of other layers (fused experts
    for an ordinary MLP), or refuses them; we name modules in full, and mean those."""
    own = vars(config).get("model_type")
    config.model_type = ""
    try:
        yield
    finally:
        del config.model_type
        if own is not None:
            config.model_type = own


def unnameable(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Of linear layers those that an adapter of peft's cannot hold: it refuses their name in this family of models, or
    takes it for something else. Asked of peft, by a model of the same type with one layer of the name."""

    class Named(torch.nn.Module):
        def __init__(self, leaf: str) -> None:
            super().__init__()
            self.config = model.config
            self.add_module(leaf, torch.nn.Linear(1, 1, device="meta"))

    def held(leaf: str) -> bool:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                wrapped = inject_adapter_in_model(LoraConfig(r=1, target_modules=[leaf]), Named(leaf))
        except ValueError:
            return False
        return any(f"{leaf}.lora_A" in name for name, _ in wrapped.named_parameters())

    held_leaves = {leaf: held(leaf) for leaf in {name.rpartition(".")[2] for name in names}}
    return [name for name in names if not held_leaves[name.rpartition(".")[2]]]


def _own(model: PeftModel, reason: str, within: Callable[[str], bool]) -> Subspace:
    """An adapter's own matrices. Raises `InputError` where nothing of it is left to move."""
    given = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
    own = of_text(model)
    movable = {name: tensor for name, tensor in given.items() if own(tensor) and within(name)}
    if not movable:
        raise InputError("--subspace adapter: the adapter has nothing on the layers that this method moves.")
    for name, tensor in given.items():
        tensor.requires_grad_(name in movable)
    return Subspace(model, movable, "adapter", reason, adapter=False)


def targeted(model: PreTrainedModel, asked: Lora) -> list[str]:
    """Names of the linear layers that a LoRA stands on. Raises `InputError` for a target that is none of them."""
    names = linear_layers(model)
    for target in asked.targets:
        if not any(Lora(targets=(target,)).holds(name) for name in names):
            there = ", ".join(sorted({name.rpartition(".")[2] for name in names}))
            raise InputError(f"--subspace {asked}: no linear layer is called {target}. There are {there}.")
    return [name for name in names if asked.holds(name)]


def check_targets(config: PreTrainedConfig, asked: str, trust_remote_code: bool) -> None:
    """The same from the configuration of a model alone, before its weights are loaded."""
    if asked in WORDS or (lora.is_lora(asked) and not lora.of(asked).targets):
        return
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
    if lora.is_lora(asked):
        targeted(model, lora.of(asked))
    elif not any(fnmatch.fnmatchcase(name, asked) for name, _ in model.named_parameters()):
        raise InputError(_nothing(asked, model))


def _nothing(pattern: str, model: nn.Module) -> str:
    example = next(name for name, _ in model.named_parameters())
    return f"--subspace {pattern}: no parameter has such a name. Names look like {example!r}."


def linear_layers(model: PreTrainedModel) -> list[str]:
    """Names of all linear layers but the output head. Raises `InputError` where there is none."""
    head, own = model.get_output_embeddings(), of_text(model)
    found = [
        name
        for name, module in model.named_modules()
        if is_linear(module) and module is not head and own(module.weight)
    ]
    if not found:
        raise InputError("--subspace lora: the model has no linear layer. Use --subspace full.")
    return found
