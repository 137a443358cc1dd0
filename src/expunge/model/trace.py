"""FLOPs and bytes of a model's passes from its configuration alone.

The model is built on PyTorch's meta device, where tensors have shapes and no data, and its real forward and backward
run there. FLOPs come from PyTorch's own counter; bytes from following every storage from its making to its end, so
that the peak is the allocator's, whatever the architecture. Attention is sent to the fused kernel that a CPU takes (a
GPU's is alike), whose FLOPs the counter does not know and gets from us by its own formula.

Not seen: what kernels need inside themselves, and bfloat16 autocast on a GPU, where bytes are therefore too high.
Shapes: B windows, T tokens, N targets, V vocabulary.
"""

import copy
import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from expunge.config import lora
from expunge.model import layers
from expunge.model.losses import are_few, nll, read_logits
from expunge.model.recompute import recompute_layers, recomputes
from expunge.model.select import select
from expunge.model.without_data import Fused, Live, NotFollowed, following

ATEN = torch.ops.aten
SINGLE = 4  # bytes of a float32
MOMENTS = 2  # of AdamW, for each weight that moves
LONGEST = 64  # tokens of the passes that FLOPs are fitted to
DEPTHS = (2, 4)  # deeper stacks of equal layers are traced at these depths and extended, which is exact for FLOPs


@dataclass(frozen=True, slots=True)
class Curve:
    """FLOPs of one window of T tokens: `linear` T + `square` T^2 (the second from attention).

    `head`: of `linear` what the output head takes, where it can be left out at places that are no targets.
    """

    linear: float
    square: float
    head: float = 0.0

    def of(self, windows: int, tokens: int, targets: int | None = None) -> float:
        """FLOPs of B windows padded to T tokens, of which so many are targets; none: all of them."""
        places = windows * tokens
        left_out = places - targets if targets is not None and are_few(targets, places) else 0
        return places * (self.linear + self.square * tokens) - left_out * self.head

    def reading(self, windows: int, prompt: int, head: int) -> float:
        """FLOPs of reading B prompts, of which only the last token goes through the output head."""
        return self.of(windows, prompt) - windows * head * (prompt - 1)

    def going_on(self, windows: int, prompt: int, new: int) -> float:
        """FLOPs of making `new` tokens after each prompt that was read, one by one, with cached keys and values.

        A token at place p attends to p + 1 others; the last token is made and not read.
        """
        single = new - 1
        attended = single * prompt + single * (single + 1) / 2
        return windows * (self.linear * single + self.square * attended)


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A model without data: the wrapped model (for LoRA), its movable parameters, and sizes.

    `moving` counts parameters that move, `total` all of the plain model; `largest` is the largest movable tensor;
    `head` is the FLOPs of the output head for one token.
    """

    model: Any
    movable: dict[str, Tensor]
    subspace: str
    total: int
    moving: int
    largest: int
    weight_bytes: int
    vocabulary: int
    head: int


def blueprint(
    config: PreTrainedConfig,
    subspace: str,
    dtype: torch.dtype = torch.float32,
    trust_remote_code: bool = False,
    layers: Callable[[int], Sequence[int]] | None = None,
    linear: str = "",
) -> Blueprint:
    """The model of a configuration on the meta device. Raises `InputError` for a subspace that it does not have."""
    transformers_logging.set_verbosity_error()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code).to(dtype).eval()
        total = sum(parameter.numel() for parameter in model.parameters())
        size = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
        head = model.get_output_embeddings()
        odd = unfit(model) if linear else ()
        chosen = select(model, subspace, torch.device("cpu"), layers, linear, odd)
    sizes = [tensor.numel() for tensor in chosen.movable.values()]
    return Blueprint(
        model=chosen.model,
        movable=chosen.movable,
        subspace=subspace,
        total=total,
        moving=sum(sizes),
        largest=max(sizes),
        weight_bytes=size,
        vocabulary=head.weight.shape[0],
        head=2 * head.weight.numel(),
    )


@dataclass(frozen=True, slots=True)
class Traced:
    """What one pass over B windows of T tokens takes: FLOPs, and bytes at its peak beside weights and gradients."""

    forward: int
    whole: int
    peak: int


class Stack:
    """One model's passes: traced whole where it is shallow or its layers differ, else at two depths and extended.

    `recompute`: with gradient checkpointing.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        subspace: str,
        dtype: torch.dtype,
        trust_remote_code: bool = False,
        recompute: bool = False,
    ) -> None:
        made = partial(blueprint, subspace=subspace, dtype=dtype, trust_remote_code=trust_remote_code)
        self.models: list[Any] = []
        self.reach = 0.0
        if subspace == "full" or (
            lora.is_lora(subspace) and not re.search(r"\d", "".join(lora.of(subspace).targets))
        ):  # a pattern may name layers that a shorter stack lacks
            self.models, self.reach = _shorter(config, made)
        self.models = self.models or [made(config).model]
        for model in self.models if recompute else ():
            recompute_layers(model, Fused)

    def trace(self, windows: int, tokens: int, targets: int, training: bool) -> Traced:
        """What one pass takes."""
        found = [trace(model, windows, tokens, targets, training) for model in self.models]
        return Traced(*(round(self._extend(figures)) for figures in zip(*map(astuple, found), strict=True)))

    def peak(self, windows: int, tokens: int, targets: int, training: bool) -> int:
        """Only the bytes of that, in half the time: nothing is counted."""
        found = [_traced(model, windows, tokens, targets, training, None).peak for model in self.models]
        return round(self._extend(found))

    def curves(self, longest: int, training: bool) -> tuple[Curve, Curve]:
        """FLOPs of forward passes, and of forward with backward, fitted to two lengths; the fit is exact."""
        tokens = max(4, min(longest, LONGEST) // 2)
        short, long = (self.trace(1, length, length, training) for length in (tokens, 2 * tokens))
        few = self.trace(1, tokens, 1, training)  # the head at one target, and at the first place without a backward
        forward = (short.forward - few.forward) / (tokens - 2)
        whole = (short.whole - few.whole + forward) / (tokens - 1)
        return (
            _fit(tokens, short.forward, long.forward, forward),
            _fit(tokens, short.whole, long.whole, whole if forward else 0.0),
        )

    def cache_bytes(self) -> int:
        """Bytes of keys and values that generation keeps for each token of each window."""
        return round(self._extend([cache_bytes(model) for model in self.models]))

    def _extend(self, figures: Sequence[float]) -> float:
        return figures[0] + self.reach * (figures[-1] - figures[0])


def _shorter(
    config: PreTrainedConfig, made: Callable[[PreTrainedConfig], Blueprint]
) -> tuple[list[PreTrainedModel], float]:
    """Models of two depths, and how far from the first the whole one lies in steps between them.

    None where the stack is shallow, its layers differ, or a shorter one cannot be made of the configuration or would
    not be extended to the whole: what parameters say is what FLOPs would.
    """
    depth = depth_of(config)
    if depth <= DEPTHS[-1] or not alike(config):
        return [], 0.0
    reach = (depth - DEPTHS[0]) / (DEPTHS[-1] - DEPTHS[0])
    try:
        small, large = (made(with_layers(config, layers)) for layers in DEPTHS)
    except Exception:  # whatever a configuration raises that has other settings by layer
        return [], 0.0
    with torch.device("meta"):
        whole = sum(one.numel() for one in AutoModelForCausalLM.from_config(config).parameters())
    exact = small.total + reach * (large.total - small.total) == whole
    return ([small.model, large.model], reach) if exact else ([], 0.0)


def depth_of(config: PreTrainedConfig) -> int:
    """Layers of the text model; 0 where the configuration does not say."""
    return int(getattr(config.get_text_config(decoder=True), "num_hidden_layers", None) or 0)


def alike(config: PreTrainedConfig) -> bool:
    """Whether all layers of the text model have the same settings, as far as the configuration has any by layer."""
    kinds = getattr(config.get_text_config(decoder=True), "layer_types", None)  # a property, in some families
    return all(len(set(map(repr, one))) <= 1 for one in (*_by_layer(config).values(), kinds or ()))


def with_layers(config: PreTrainedConfig, layers: int) -> PreTrainedConfig:
    """The configuration with fewer layers in its text model, settings by layer cut to as many."""
    piece = copy.deepcopy(config)
    text = piece.get_text_config(decoder=True)
    for name, values in _by_layer(config).items():
        setattr(text, name, values[:layers])
    text.num_hidden_layers = layers
    return piece


def _by_layer(config: PreTrainedConfig) -> dict[str, list[object]]:
    """Settings of the text model that are lists of one entry a layer (its attention, its MLP)."""
    depth = depth_of(config)
    own = vars(config.get_text_config(decoder=True))
    return {name: list(one) for name, one in own.items() if isinstance(one, list | tuple) and len(one) == depth}


def trace(model: nn.Module, windows: int, tokens: int, targets: int, training: bool) -> Traced:
    """Runs one pass on the meta device as training, or as measuring, does: logits of the targets in float32."""
    found = _traced(model, windows, tokens, targets, training, counter())
    if training and recomputes(model):  # the counter's hooks hold on to what is recomputed
        return replace(found, peak=_traced(model, windows, tokens, targets, training, None).peak)
    return found


def _traced(
    model: nn.Module, windows: int, tokens: int, targets: int, training: bool, count: FlopCounterMode | None
) -> Traced:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad] if training else []
    for parameter in parameters:
        parameter.grad = torch.empty_like(parameter)
    known = [tensor for parameter in model.parameters() for tensor in (parameter, parameter.grad) if tensor is not None]
    ids = torch.zeros(windows, tokens, dtype=torch.long, device="meta")
    chosen = torch.zeros(targets, dtype=torch.long, device="meta")
    try:
        with (
            following(model),
            Live([*known, *model.buffers()]) as live,
            count or nullcontext(),
            Fused(),
            torch.set_grad_enabled(training),
        ):
            nll = _losses(model, ids, chosen)
            forward = count.get_total_flops() if count else 0
            if training:
                nll.mean().backward()
            return Traced(forward, count.get_total_flops() if count else 0, live.peak)
    finally:
        for parameter in parameters:
            parameter.grad = None


@torch.no_grad()
def cache_bytes(model: nn.Module) -> int:
    """Bytes of keys and values that generation keeps for each token of each window; 0 for models that keep none."""
    ids = torch.zeros(1, 4, dtype=torch.long, device="meta")
    with following(model), Live([]), Fused():
        cache = model(input_ids=ids, use_cache=True).get("past_key_values")  # recurrent models keep something else
    kept = [getattr(layer, part, None) for layer in getattr(cache, "layers", ()) for part in ("keys", "values")]
    return int(sum(tensor.nbytes for tensor in kept if tensor is not None)) // 4


def shared_inputs(model: nn.Module) -> dict[str, str]:
    """`layers.shared_inputs` of a model without data."""
    with following(model), Live([]), Fused():
        return layers.shared_inputs(model)


def unfit(model: nn.Module) -> dict[str, str]:
    """`layers.unfit` of a model without data; none where it cannot be followed."""
    try:
        with following(model), Live([]), Fused():
            return layers.unfit(model)
    except NotFollowed:
        return {}


def counter() -> FlopCounterMode:
    """PyTorch's counter, taught the fused attention of a CPU, which it leaves out."""
    fused = {
        ATEN._scaled_dot_product_flash_attention_for_cpu: _attention_flops(2),
        ATEN._scaled_dot_product_flash_attention_for_cpu_backward: _attention_flops(5, skip=1),
    }
    return FlopCounterMode(display=False, custom_mapping=fused)


def _attention_flops(products: int, skip: int = 0) -> Callable[..., int]:
    """The counter's own rule for fused attention: two products forward, five backward, one of them made again."""

    def flops(*shapes: Sequence[int], **_: object) -> int:
        query, key = shapes[skip], shapes[skip + 1]
        return products * 2 * int(query[0] * query[1] * query[2] * query[3] * key[2])

    return flops


def _losses(model: nn.Module, ids: Tensor, chosen: Tensor) -> Tensor:
    """As `model.losses`, with the targets chosen by place: a mask would need data."""

    def read(logits: Tensor, labels: Tensor) -> tuple[Tensor]:
        return (nll(logits, labels),)

    return read_logits(model, (ids, torch.ones_like(ids)), lambda values: values.flatten(0, 1)[chosen], read, chosen)[0]


def _fit(tokens: int, short: int, long: int, head: float) -> Curve:
    square = (long - 2 * short) / (2 * tokens**2)
    return Curve(short / tokens - square * tokens, square, head)
