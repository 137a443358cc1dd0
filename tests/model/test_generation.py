"""Generation does not depend on the batch or on the checkpoint's own settings, and leaves those as they were."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from expunge.model import generation
from expunge.model.generation import generate, greedy, padding_is_harmless


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


OWN = {
    "do_sample": True,
    "temperature": 0.3,
    "repetition_penalty": 3.0,
    "suppress_tokens": [9, 10, 11],
    "max_length": 3,
}
OWN |= {"forced_bos_token_id": 7, "forced_eos_token_id": 8, "num_beams": 3, "no_repeat_ngram_size": 1, "min_length": 40}
OWN |= {"eos_token_id": [3, 4], "begin_suppress_tokens": list(range(50)), "bad_words_ids": [[5], [6]]}


def prompts_of(count: int = 16, seed: int = 0) -> list[list[int]]:
    """Prompts of 2 to 30 ids, and two of one length."""
    random = torch.Generator().manual_seed(seed)
    lengths = [2, 2, *torch.randint(2, 31, (count - 2,), generator=random).tolist()]
    return [torch.randint(2, 258, (length,), generator=random).tolist() for length in lengths]


def in_batches(model: Any, prompts: list[list[int]], tokens: list[int], end: int | None, size: int) -> list[list[int]]:
    found = []
    for begin in range(0, len(prompts), size):
        found += greedy(model, prompts[begin : begin + size], tokens[begin : begin + size], end)
    return found


@torch.no_grad()
def naive(model: Any, prompt: list[int], tokens: int, end: int | None) -> list[int]:
    """One row, one whole forward pass a token, no cache and no `generate`."""
    ids = list(prompt)
    while len(ids) < len(prompt) + tokens:
        best = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if best == end:
            break
        ids.append(best)
    return ids[len(prompt) :]


def near_ties(make: Callable[..., Any], gap: float) -> Any:
    """A model for which every token has twins: odd rows of the output layer are the even ones, plus noise."""
    model = make(seed=5)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(20)
        weight = model.get_output_embeddings().weight
        weight[1::2] = weight[0::2] * (1 + gap * torch.randn(weight[0::2].shape, generator=torch.manual_seed(1)))
    return model


def sharp(make: Callable[..., Any]) -> Any:
    """A model whose next token hangs on the whole context: all matrices are scaled up."""
    model = make(seed=2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(6 if weight.ndim > 1 else 1)
    return model


def memorised(make: Callable[..., Any], prompts: list[list[int]], end: int) -> Any:
    """A model that continues each prompt with ids of its own and then ends."""
    model = make(seed=1)
    texts = [[*prompt, *(2 + (7 * place + n) % 250 for n in range(3 + place % 5)), end] for place, prompt in
             enumerate(prompts)]  # fmt: skip
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    width = max(map(len, texts))
    ids = torch.tensor([text + [0] * (width - len(text)) for text in texts])
    labels = torch.where(torch.arange(width)[None] < torch.tensor([[len(text)] for text in texts]), ids, -100)
    for _ in range(70):
        optimiser.zero_grad()
        model(ids, labels=labels).loss.backward()
        optimiser.step()
    return model.eval()


FAMILIES = ("make_llama", "make_gpt2", "make_opt")  # the last two have absolute positions


@pytest.fixture(params=FAMILIES)
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    found: Callable[..., Any] = request.getfixturevalue(request.param)
    return found


def check_batches(model: Any, end: int | None, batched: Callable[..., list[list[int]]] = in_batches) -> None:
    """Batches of 3 and 16 give what one row at a time gives."""
    prompts = prompts_of()
    tokens = [4 + place % 9 for place in range(len(prompts))]
    alone = in_batches(model, prompts, tokens, end, 1)
    assert all(len(new) <= most for new, most in zip(alone, tokens, strict=True))
    for size in (3, 16):
        assert batched(model, prompts, tokens, end, size) == alone, size


def test_batches_give_what_single_rows_give(make: Callable[..., Any]) -> None:
    check_batches(make(), end=None)
    check_batches(sharp(make), end=None)


def test_batches_of_a_model_that_memorised(make: Callable[..., Any]) -> None:
    prompts = prompts_of()
    model = memorised(make, prompts, end=1)
    check_batches(model, end=1)
    found = greedy(model, prompts, [12] * len(prompts), 1)
    assert sum(len(new) == 3 + place % 5 for place, new in enumerate(found)) >= 14  # it ends where it was taught to
    assert found == [naive(model, prompt, 12, 1) for prompt in prompts]


@pytest.mark.parametrize("gap", [0.0, 1e-7])
def test_batches_of_models_with_near_ties(make: Callable[..., Any], gap: float) -> None:
    check_batches(near_ties(make, gap), end=None)


def _without_second_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation, "_settled", lambda model, prompt, most, end, new, near: new)


def _without_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = generation.generate
    monkeypatch.setattr(
        generation, "generate",
        lambda model, ids, attention, *rest, **named: plain(model, ids, torch.ones_like(attention), *rest, **named),
    )  # fmt: skip


def _padded_right(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = generation.generate

    def turned(model: Any, ids: Any, attention: Any, *rest: Any, **named: Any) -> Any:
        order = attention.argsort(dim=1, descending=True, stable=True)
        return plain(model, ids.gather(1, order), attention.gather(1, order), *rest, **named)

    monkeypatch.setattr(generation, "generate", turned)


def _most_of_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = generation._batch
    monkeypatch.setattr(
        generation, "_batch", lambda model, prompts, tokens, end, watch: plain(
            model, prompts, [max(tokens)] * len(tokens), end, watch),
    )  # fmt: skip


@pytest.mark.parametrize("broken", [_without_mask, _padded_right, _most_of_the_batch])
def test_batch_check_rejects(
    broken: Callable[[pytest.MonkeyPatch], None], make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    with pytest.raises(AssertionError):
        check_batches(sharp(make), end=None)


def test_near_ties_need_the_second_look(make_llama: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _without_second_look(monkeypatch)
    with pytest.raises(AssertionError):
        for gap in (1e-8, 1e-7, 3e-7):
            check_batches(near_ties(make_llama, gap), end=None)


def test_the_checkpoints_own_settings_change_nothing(make: Callable[..., Any]) -> None:
    model, prompts = make(seed=2), prompts_of(6)
    plain = greedy(model, prompts, [10] * 6, 1)
    model.generation_config = GenerationConfig(**OWN)
    for name in ("repetition_penalty", "no_repeat_ngram_size"):  # older checkpoints keep them in the configuration
        setattr(model.config, name, OWN[name])
    assert greedy(model, prompts, [10] * 6, 1) == plain
    assert plain == [naive(model, prompt, 10, 1) for prompt in prompts]


def test_padding_is_tried_before_it_is_trusted(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    model = make()
    assert padding_is_harmless(model, prompts_of())
    _without_mask(monkeypatch)
    assert not padding_is_harmless(model, prompts_of())
    assert padding_is_harmless(model, [[5, 6], [7, 8]])  # of one length, nothing is padded
