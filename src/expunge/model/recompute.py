"""Gradient checkpointing: what a layer keeps for its backward pass is made again there, for a third more time.

That of transformers works in training mode only, where dropout would blur what unlearning measures and matches. This
one wraps the same layers, in whatever mode the model is, and so is the kind without re-entrance (Chen et al.
1604.06174 in PyTorch's form).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from expunge.data.portions import Portions
from expunge.errors import InputError

Around = Callable[[], AbstractContextManager[object]]


def recompute_layers(model: nn.Module, around: Around = nullcontext) -> bool:
    """Makes every layer of a model keep nothing but its input; False where there is none that did not do so yet.

    `around` makes the context that layers are recomputed in.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    keeping = [layer for layer in layers if not _recomputes(layer)]
    for layer in keeping:
        layer.forward = partial(_recomputed, layer.forward, around)
    return bool(keeping)


def allow(portions: Portions, model: nn.Module, asked: bool) -> None:
    """Recomputes at once where that was asked for, else as soon as memory does not hold a single window.

    Raises `InputError` where it was asked for and the model has no such layers.
    """
    if asked and not recompute_layers(model) and not recomputes(model):
        raise InputError("--gradient-checkpointing: this model has no layers that can be recomputed. Drop the flag.")
    portions.lighter = partial(recompute_layers, model)


def recomputes(model: nn.Module) -> bool:
    """Whether any layer of a model is recomputed."""
    return any(_recomputes(layer) for layer in model.modules())


def _recomputes(layer: nn.Module) -> bool:
    own = vars(layer).get("forward")
    return isinstance(own, partial) and own.func is _recomputed


def _recomputed(forward: Callable[..., object], around: Around, *arguments: object, **named: Any) -> object:
    if not torch.is_grad_enabled():
        return forward(*arguments, **named)
    contexts = partial(_contexts, around)
    return checkpoint(forward, *arguments, use_reentrant=False, context_fn=contexts, **named)


def _contexts(around: Around) -> tuple[AbstractContextManager[object], AbstractContextManager[object]]:
    return nullcontext(), around()
