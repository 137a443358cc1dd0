"""Generating with our settings only: greedy, or sampling at temperature 1, from all tokens or a nucleus.

`generate` fills what a call leaves open from the checkpoint's own generation settings (repetition penalties, forced
tokens, a chat model's temperature), so those are put aside while it runs and are back afterwards.

`greedy` gives each prompt the same tokens whatever the batch. Beside others, a prompt's logits differ by rounding:
other matrix kernels, padding on the left. That changes a token only where the two likeliest lie as near as rounding
reaches, so the distance of the two is watched at every step. Where it was too small, the step is decided by a forward
pass over the prompt and its tokens so far, alone; a prompt for which that gives another token goes on alone from there.
By induction over the steps no token depends on the batch, also for a batch of one, whose near ties are decided alike.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from expunge.errors import InputError, first_line
from expunge.model.key_values import with_room

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

NEAR = 1e-4  # of the largest logit; rounding in float32 batches was seen to reach 5e-6 of it
SMALL = 100_000_000  # parameters
PADDING_HARM = 0.05  # of the largest logit, in lower precision: above its rounding, below what unmasked padding does


def batch_size(parameters: int) -> int:
    """Prompts at a time: more for small models, whose steps cost the same for few as for many."""
    return 128 if parameters < SMALL else 32


@torch.no_grad()
def generate(
    model: "PreTrainedModel | PeftModel",
    ids: Tensor,
    attention: Tensor,
    end: int | None,
    tokens: int,
    sample: bool = False,
    watch: LogitsProcessor | None = None,
    top_p: float = 1.0,
) -> Tensor:
    """Ids [B, T + new] of prompts [B, T], padded on the left, and at most `tokens` new tokens until `end`.

    `top_p`: samples are of the likeliest tokens that have this probability together (Holtzman et al. 2020, 1904.09751).
    """
    settings = {"temperature": 1.0, "top_k": 0, "top_p": top_p} if sample else {}
    plain = GenerationConfig(
        do_sample=sample,
        num_beams=1,
        max_new_tokens=tokens,
        pad_token_id=end if end is not None else 0,
        eos_token_id=end,
        **settings,
    )
    watching = LogitsProcessorList([watch] if watch is not None else [])
    with _own_settings_aside(model, plain):
        output: Tensor = model.generate(
            input_ids=ids,
            attention_mask=attention,
            generation_config=plain,
            logits_processor=watching,
            past_key_values=with_room(model, ids.shape[1] + tokens),
        )
    return output


def check(path: str, model: "PreTrainedModel | PeftModel") -> None:
    """Raises `InputError` for a model that does not generate: evidence is what it says, so none could be had."""
    ids = torch.tensor([[0, 1, 0]] * 2, device=model.device)
    try:
        generate(model, ids, torch.ones_like(ids), None, 2)
    except Exception as error:  # whatever a family raises that keeps its state in a way of its own
        reason = first_line(error)
        raise InputError(
            f"{path}: {type(model).__name__} does not generate text with this version of transformers ({reason}), so "
            "nothing could be shown of it. Give a model that generates, or a version that runs it."
        ) from None


def greedy(
    model: "PreTrainedModel | PeftModel", prompts: Sequence[list[int]], tokens: Sequence[int], end: int | None
) -> list[list[int]]:
    """New ids of each prompt, at most `tokens[i]` and without `end`; in float32 they do not depend on the batch.

    In lower precision rounding is too coarse to look at every near tie again, and batches may differ.
    """
    margins = _Margins()
    found = _batch(model, prompts, tokens, end, margins)
    if not _full_precision(model):
        return found
    near = margins.near()
    return [
        _settled(model, prompt, most, end, new, near[place])
        for place, (prompt, most, new) in enumerate(zip(prompts, tokens, found, strict=True))
    ]


def drawn(
    model: "PreTrainedModel | PeftModel",
    prompts: Sequence[list[int]],
    tokens: Sequence[int],
    end: int | None,
    seed: int,
    top_p: float,
) -> list[list[int]]:
    """The same as samples, from a seed; the global chance stays as it was. They depend on the batch."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _batch(model, prompts, tokens, end, None, top_p)


def _settled(
    model: "PreTrainedModel | PeftModel",
    prompt: list[int],
    most: int,
    end: int | None,
    new: list[int],
    near: Sequence[int],
) -> list[int]:
    """The new ids of a prompt with the steps at near ties decided by the prompt alone."""
    for step in near:
        if step > len(new) or step == most:
            break  # steps that other prompts of the batch went on for
        wanted = _next(model, prompt + new[:step])
        if wanted == (new[step] if step < len(new) else end):
            continue
        begun = new[:step] if wanted == end else [*new[:step], wanted]
        if wanted == end or len(begun) == most:
            return begun
        return begun + greedy(model, [prompt + begun], [most - len(begun)], end)[0]
    return new


@torch.no_grad()
def _next(model: "PreTrainedModel | PeftModel", ids: list[int]) -> int:
    """The likeliest next id."""
    given = torch.tensor([ids], device=model.device)
    logits = model(input_ids=given, attention_mask=torch.ones_like(given), use_cache=False).logits
    return int(logits[0, -1].float().argmax())


def padding_is_harmless(model: "PreTrainedModel | PeftModel", prompts: Sequence[list[int]]) -> bool:
    """Whether the shortest prompt gives the same next token's logits alone and padded to the longest's width.

    Not so for models that take no attention mask or count positions over the padding.
    """
    shortest, longest = min(prompts, key=len), max(prompts, key=len)
    if len(shortest) == len(longest):
        return True
    alone, beside = _Margins(), _Margins()
    _batch(model, [shortest], [1], None, alone)
    _batch(model, [shortest, longest], [1, 1], None, beside)
    assert alone.first is not None and beside.first is not None
    apart = (alone.first[0] - beside.first[0]).abs().max()
    most = NEAR if _full_precision(model) else PADDING_HARM
    return bool(apart <= most * alone.first[0].abs().max())


class _Margins(LogitsProcessor):  # type: ignore[misc]
    """Changes nothing; keeps the first step's logits and, of every step, whether the best token led clearly."""

    def __init__(self) -> None:
        self.first: Tensor | None = None
        self._near: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if self.first is None:
            self.first = scores.clone()
        best = scores.topk(min(2, scores.shape[1]), dim=1).values
        self._near.append(best[:, 0] - best[:, -1] <= NEAR * scores.abs().amax(dim=1))
        return scores

    def near(self) -> list[list[int]]:
        """Steps at near ties, by prompt."""
        near = torch.stack(self._near, dim=1).cpu()
        return [row.nonzero().flatten().tolist() for row in near]


def _batch(
    model: "PreTrainedModel | PeftModel",
    prompts: Sequence[list[int]],
    tokens: Sequence[int],
    end: int | None,
    watch: _Margins | None,
    top_p: float | None = None,
) -> list[list[int]]:
    """Greedy, or samples where `top_p` is given."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    attention = torch.zeros_like(ids)
    for place, prompt in enumerate(prompts):
        ids[place, width - len(prompt) :] = torch.tensor(prompt)
        attention[place, width - len(prompt) :] = 1
    given, sample = (ids.to(model.device), attention.to(model.device)), top_p is not None
    output = generate(model, *given, end, max(tokens), sample, watch, 1.0 if top_p is None else top_p)
    rows = output[:, width:].cpu().tolist()
    return [_until(new[:most], end) for new, most in zip(rows, tokens, strict=True)]


def _until(ids: list[int], end: int | None) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def _full_precision(model: "PreTrainedModel | PeftModel") -> bool:
    return model.dtype == torch.float32 and not torch.is_autocast_enabled(model.device.type)


@contextmanager
def _own_settings_aside(model: "PreTrainedModel | PeftModel", plain: GenerationConfig) -> Iterator[None]:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    own, outer = inner.generation_config, getattr(model, "generation_config", None)
    inner.generation_config = model.generation_config = plain
    try:
        yield
    finally:
        inner.generation_config = own
        model.generation_config = outer
