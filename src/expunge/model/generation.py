"""Generating with our settings only: greedy, or plain sampling at temperature 1.

`generate` fills what a call leaves open from the checkpoint's own generation settings (repetition penalties, forced
tokens, a chat model's temperature), so those are put aside while it runs and are back afterwards.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig


@torch.no_grad()
def generate(model: Any, ids: Tensor, attention: Tensor, end: int | None, tokens: int, sample: bool = False) -> Tensor:
    """Ids [B, T + new] of prompts [B, T], padded on the left, and at most `tokens` new tokens until `end`."""
    settings = {"temperature": 1.0, "top_k": 0, "top_p": 1.0} if sample else {}
    plain = GenerationConfig(
        do_sample=sample,
        num_beams=1,
        max_new_tokens=tokens,
        pad_token_id=end if end is not None else 0,
        eos_token_id=end,
        **settings,
    )
    with _own_settings_aside(model, plain):
        output: Tensor = model.generate(input_ids=ids, attention_mask=attention, generation_config=plain)
    return output


@contextmanager
def _own_settings_aside(model: Any, plain: GenerationConfig) -> Iterator[None]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own, outer = inner.generation_config, getattr(model, "generation_config", None)
    inner.generation_config = model.generation_config = plain
    try:
        yield
    finally:
        inner.generation_config = own
        model.generation_config = outer
