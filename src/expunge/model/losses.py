"""Pure functions on logits and batches.

The logits of a batch are the largest thing that a pass makes: for a vocabulary of 100,000 more than all activations.
So where few places are targets only theirs are made, from the last hidden states, and where there are many they are
made chunk by chunk, and again in the backward pass: no [N, V] exists, and values and gradients are the same but for
rounding.

Shapes: B windows, T tokens, D width, V vocabulary, N targets of the batch (true entries of `counted`), n targets of a
chunk, K kept entries of the original's distribution.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from expunge.data.batches import Batch

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

MOST_LOGITS = 2**25  # entries B * T * V that are made at once: 128 MiB in float32
CHUNK_LOGITS = 2**23  # entries n * V of a chunk, of which a backward pass holds about four
FEW_TARGETS = 0.8  # of the places B * T: with more targets, picking their states takes longer than it saves
Pick = Callable[[Tensor], Tensor]
Read = Callable[..., tuple[Tensor, ...]]


def target_logits(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Logits [N, V], in float32 or wider, that predict the batch's targets, in row-major order of `batch.counted`.

    All at once: for what needs them whole. Losses are `target_nll`, `target_kl` or `read_targets`.
    """
    return _wide(_before_targets(batch)(_logits(model, batch.ids, batch.attention)))


def target_nll(model: torch.nn.Module, batch: Batch) -> Tensor:
    """Negative log-likelihood [N] of each target under the model, in nats."""
    return read_targets(model, batch, lambda logits, ids: (nll(logits, ids),), target_ids(batch))[0]


def target_kl(model: torch.nn.Module, batch: Batch, kept: tuple[Tensor, Tensor]) -> Tensor:
    """KL(original, model) [N] at each target in nats; `kept` [N, K] are the original's log-probabilities and ids."""

    def read(logits: Tensor, log_probs: Tensor, ids: Tensor) -> tuple[Tensor]:
        return (kept_kl(logits.log_softmax(dim=1), log_probs, ids),)

    return read_targets(model, batch, read, *kept)[0]


def read_targets(model: torch.nn.Module, batch: Batch, read: Read, *given: Tensor) -> tuple[Tensor, ...]:
    """What `read(logits [n, V], *given [n, ...])` returns for the targets, joined to [N, ...].

    `read` treats every target by itself, so that it does not matter how many it sees at a time.
    """
    return read_logits(model, (batch.ids, batch.attention), _before_targets(batch), read, *given)


def read_logits(
    model: "PreTrainedModel | PeftModel", inputs: tuple[Tensor, Tensor], pick: Pick, read: Read, *given: Tensor
) -> tuple[Tensor, ...]:
    """As `read_targets`, for ids and attention [B, T] and the places that `pick` takes: [B, T, ...] to [N, ...]."""
    config = getattr(model, "config", None)
    vocabulary = config.get_text_config(decoder=True).vocab_size if config is not None else 0
    places, targets = inputs[0].numel(), pick(inputs[0]).numel()
    many = places * vocabulary > MOST_LOGITS
    states = _states(model, *inputs) if vocabulary and (many or are_few(targets, places)) else None
    if states is None:
        return read(_wide(pick(_logits(model, *inputs))), *given)
    head, picked = model.get_output_embeddings(), pick(states)

    def from_states(states: Tensor, *given: Tensor) -> tuple[Tensor, ...]:
        return read(_wide(head(states[None])[0]), *given)

    if not many:
        return from_states(picked, *given)
    most = max(1, CHUNK_LOGITS // vocabulary)
    chunks = zip(*(tensor.split(most) for tensor in (picked, *given)), strict=True)
    if torch.is_grad_enabled():
        found = [checkpoint(from_states, *chunk, use_reentrant=False) for chunk in chunks]
    else:
        found = [from_states(*chunk) for chunk in chunks]
    return tuple(torch.cat(parts) for parts in zip(*found, strict=True))


def are_few(targets: int, places: int) -> bool:
    """Whether the logits of so many targets are made alone, and those of the other places not at all."""
    return targets < FEW_TARGETS * places


def _states(model: "PreTrainedModel | PeftModel", ids: Tensor, attention: Tensor) -> Tensor | None:
    """What comes into the output head [B, T, D]; None where the logits are not just what the head makes of it.

    The head gets the first place only, and what it makes of that is compared with what the model returns: some models
    scale or cap their logits.
    """
    head = model.get_output_embeddings()
    if head is None:
        return None
    caught: list[Tensor] = []

    def catch(module: torch.nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        caught.append(arguments[0])
        return (arguments[0][:, :1], *arguments[1:])

    handle = head.register_forward_pre_hook(catch)
    try:
        first = _logits(model, ids, attention)
    finally:
        handle.remove()
    if len(caught) != 1 or caught[0].shape[:2] != ids.shape:
        return None
    with torch.no_grad():
        same = first.is_meta or torch.equal(
            head(caught[0][:, :1].detach()).to(first.dtype), first
        )  # a plan has no data
    return caught[0] if same else None


def _logits(model: nn.Module, ids: Tensor, attention: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, attention_mask=attention.long(), use_cache=False).logits
    return logits


def _before_targets(batch: Batch) -> Pick:
    """Picks the places that predict the targets; a window's first token never counts, so nothing wraps around."""
    places = batch.counted.roll(-1, dims=1)
    return lambda values: values[places]


def _wide(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def target_ids(batch: Batch) -> Tensor:
    """Ids [N] of the targets, in the order of `target_logits`."""
    return batch.ids[batch.counted]


def nll(logits: Tensor, ids: Tensor) -> Tensor:
    """Negative log-likelihood [n] of each of the `ids` [n] by its logits [n, V], in nats."""
    return F.cross_entropy(logits, ids, reduction="none")


def margins(logits: Tensor, ids: Tensor) -> Tensor:
    """log p_y - log(1 - p_y) [n] of each of the `ids` y [n] by its logits [n, V]: the logit of its probability.

    z_y - log sum_{v != y} exp z_v, which stays exact where p_y rounds to 1. The loss of a token is softplus(-margin).
    """
    return logits.gather(1, ids[:, None])[:, 0] - _others(logits, ids).logsumexp(dim=1)


def margin_cotangent(logits: Tensor, ids: Tensor) -> Tensor:
    """The gradient e_y - softmax over the others [n, V] of each margin by its logits: its size hangs little on p_y."""
    away = -_others(logits, ids).softmax(dim=1)
    return away.scatter_(1, ids[:, None], 1.0)


def _others(logits: Tensor, ids: Tensor) -> Tensor:
    return logits.scatter(1, ids[:, None], float("-inf"))


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
