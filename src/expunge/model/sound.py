"""Whether a model that was loaded can be trusted with a loss: finite weights, finite logits, and no look ahead.

Causal is tested and not believed: a name says nothing, since some families take a flag in their configuration
(`is_decoder`), and some versions of transformers gave a family no causal mask. Logits of the first tokens of a short
text must stay what they are while every later token is another one.

Shapes: T tokens, V vocabulary.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from expunge.errors import InputError, first_line

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedConfig, PreTrainedModel

PROBED, KEPT = 8, 3  # tokens of the probe, and of them those that stay
AHEAD = 1e-4  # of the later logits' change: rounding stays below 1e-6, a fresh BERT's even attention makes 4e-3
AHEAD_ROUNDED = 2e-2  # in half precision, where a product over other experts' tokens rounds otherwise


def check(path: str, model: "PreTrainedModel | PeftModel") -> None:
    """Raises `InputError` for weights or logits that are not finite, and for a model that looks ahead."""
    if name := first_unfinished(model.named_parameters()):
        raise InputError(
            f"{path}: {name} holds values that are not finite (NaN or infinite), so every loss would be NaN. Give the "
            "model as it was before it broke; float16 ends at 65,504."
        )
    text = model.config.get_text_config()
    first, second = _ids(model.config, text.vocab_size).to(model.device).chunk(2, dim=1)
    second = torch.cat([first[:, :KEPT], second[:, KEPT:]], dim=1)  # other tokens: the same in another order sum alike
    try:
        one, other = _logits(model, first), _logits(model, second)
    except Exception as error:
        reason = first_line(error)
        raise InputError(f"{path}: {type(model).__name__} does not run on text alone ({reason}).") from None
    if not (bool(torch.isfinite(one).all()) and bool(torch.isfinite(other).all())):
        raise InputError(f"{path}: its logits are not finite in {model.dtype}. Give a model that can be run.")
    exact = model.dtype in (torch.float32, torch.float64)
    if looks_ahead(one, other, KEPT, AHEAD if exact else AHEAD_ROUNDED):
        raise InputError(
            f"{path}: {type(model).__name__} ({model.config.model_type}) looks ahead: its logits for a token change "
            "with the tokens after it, so it is no causal language model and its losses mean nothing. Give a causal "
            "one (of BERT and its kin: is_decoder in config.json, if it was trained so)."
        )


def looks_ahead(one: Tensor, other: Tensor, kept: int, most: float) -> bool:
    """Whether logits [1, T, V] of the `kept` first tokens differ, by over `most` of how far the later ones do."""
    apart = (one - other).abs().amax(dim=(0, 2))
    return bool(apart[:kept].max() > most * apart[kept:].max())


def first_unfinished(tensors: Iterator[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor with a number that is not finite."""
    for name, tensor in tensors:
        if tensor.is_floating_point() and tensor.numel() and not tensor.is_meta:
            least, most = tensor.detach().aminmax()  # both are NaN where one number is; no mask of that size is made
            if not bool(torch.isfinite(least) & torch.isfinite(most)):
                return name
    return None


def _ids(config: "PreTrainedConfig", vocabulary: int) -> Tensor:
    """Ids [1, 2 T] from all over the vocabulary, without those that stand for images or ends."""
    special = {value for key, value in config.to_dict().items() if key.endswith(("_token_id", "_token_index"))}
    usual = [one for one in range(min(vocabulary, 1000)) if one not in special] or [0]
    return torch.tensor([[usual[place * len(usual) // (2 * PROBED)] for place in range(2 * PROBED)]])


@torch.no_grad()
def _logits(model: "PreTrainedModel | PeftModel", ids: Tensor) -> Tensor:
    logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits
    return logits.float()
