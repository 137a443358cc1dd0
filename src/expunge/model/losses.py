"""Pure functions on logits and batches.

Shapes: B windows, T tokens, V vocabulary, N targets of the batch (true entries of `counted`), K kept entries of the
original's distribution.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from expunge.data.batches import Batch


def target_logits(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Logits [N, V], in float32 or wider, that predict the batch's targets, in row-major order of `batch.counted`."""
    logits: Tensor = model(input_ids=batch.ids, attention_mask=batch.attention.long(), use_cache=False).logits
    counted = logits[batch.counted.roll(-1, dims=1)]  # a window's first token never counts, so nothing wraps around
    return counted.to(torch.promote_types(counted.dtype, torch.float32))


def target_ids(batch: Batch) -> Tensor:
    """Ids [N] of the targets, in the order of `target_logits`."""
    return batch.ids[batch.counted]


def token_nll(logits: Tensor, batch: Batch) -> Tensor:
    """Negative log-likelihood [N] of each target, in nats."""
    return F.cross_entropy(logits, target_ids(batch), reduction="none")


def per_window(values: Tensor, batch: Batch) -> Tensor:
    """Sums [B] over each window's targets of a quantity [N] given per target."""
    places = batch.counted.nonzero()[:, 0]
    return torch.zeros(len(batch.counted), dtype=values.dtype, device=values.device).index_add(0, places, values)


def window_means(values: Tensor, batch: Batch) -> Tensor:
    """Means [B] over each window's targets of a quantity [N] given per target."""
    return per_window(values, batch) / batch.counted.sum(dim=1)


def kept_kl(log_probs: Tensor, kept_log_probs: Tensor, kept_ids: Tensor) -> Tensor:
    """KL(original, current) in nats [N], over the original's K likeliest tokens and one class for all others.

    `log_probs` [N, V] of the current model, `kept_log_probs` and `kept_ids` [N, K] of the original. Exact for K = V;
    for K < V merging the tail into one class gives a lower bound (data-processing inequality).
    """
    here = log_probs.gather(1, kept_ids)
    inner = (kept_log_probs.exp() * (kept_log_probs - here)).sum(dim=1)
    if kept_ids.shape[1] == log_probs.shape[1]:
        return inner
    rest = _log_rest(kept_log_probs)
    return inner + rest.exp() * (rest - _log_rest(here))


def _log_rest(log_probs: Tensor) -> Tensor:
    """log(1 - sum of probabilities) [N], kept finite where the sum rounds to 1."""
    return torch.log1p(-log_probs.exp().sum(dim=1).clamp(max=1 - 1e-6))


def huber(gap: Tensor, width: float) -> Tensor:
    """Quadratic within `width`, linear beyond, with slope 1 there: gap^2 / (2 width), or |gap| - width / 2."""
    return F.huber_loss(gap, torch.zeros_like(gap), reduction="none", delta=width) / width
