"""AdamW as every descent and every training here takes it."""

from collections.abc import Sequence

import torch
from torch import Tensor


def adamw(parameters: Sequence[Tensor], weight_decay: float = 0.0) -> torch.optim.Optimizer:
    """AdamW with betas 0.9 and 0.99 (our choice): a phase has some hundreds of steps, and 0.999 averages over more."""
    return torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.99), weight_decay=weight_decay)
