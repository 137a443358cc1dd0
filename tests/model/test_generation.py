"""Generation does not depend on the checkpoint's own settings, and leaves them as they were."""

from collections.abc import Callable
from typing import Any

import torch
from transformers import GenerationConfig

from expunge.model.generation import generate


def test_own_settings_do_not_matter_and_are_kept(make_llama: Callable[..., Any]) -> None:
    model = make_llama().eval()
    ids = torch.tensor([[5, 6, 7, 5, 6, 7]])
    plain = generate(model, ids, torch.ones_like(ids), end=None, tokens=12)
    own = GenerationConfig(
        do_sample=True, temperature=0.3, no_repeat_ngram_size=1, repetition_penalty=3.0, min_length=40
    )
    model.generation_config = own
    naive = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=12)
    assert not torch.equal(naive, plain)  # what a call that does not put them aside would give
    assert torch.equal(generate(model, ids, torch.ones_like(ids), end=None, tokens=12), plain)
    assert model.generation_config is own


def test_sampling_is_seeded_and_plain(make_llama: Callable[..., Any]) -> None:
    model = make_llama().eval()
    ids = torch.tensor([[5, 6, 7]] * 4)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(generate(model, ids, torch.ones_like(ids), end=None, tokens=8, sample=True))
    assert torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], drawn[2])
