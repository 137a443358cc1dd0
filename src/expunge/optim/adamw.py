"""AdamW as every descent and every training here takes it: fused where the device has that."""

from collections.abc import Sequence

import torch
from torch import Tensor

FUSED = ("cpu", "cuda")  # devices whose kernels the tests and benchmarks have seen


def adamw(parameters: Sequence[Tensor], weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """AdamW with betas 0.9 and 0.99 (our choice): a phase has some hundreds of steps, and 0.999 averages over more.

    Fused, a step reads and writes each weight once; it rounds otherwise than the loop over tensors does.
    """
    fused = all(one.is_floating_point() and one.device.type in FUSED for one in parameters)
    made = torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.99), weight_decay=weight_decay, fused=fused)
    if fused:
        made.register_step_pre_hook(_aligned)
    return made


def _aligned(optimiser: torch.optim.Optimizer, *given: object) -> None:
    """Gradients laid out as their weights: the fused step on a CPU walks through both as through one piece of memory,
    and where they differ it moves each weight by another one's gradient, without a word (torch 2.13)."""
    for parameter in (one for group in optimiser.param_groups for one in group["params"]):
        gradient = parameter.grad
        if gradient is not None and gradient.stride() != parameter.stride():
            parameter.grad = torch.empty_like(parameter).copy_(gradient)
