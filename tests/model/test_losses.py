"""Losses: the arithmetic in the comments; padded batches against single rows."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from expunge.data.batches import Batch, collate
from expunge.data.tokens import Window
from expunge.model import losses
from expunge.model.losses import (
    huber,
    kept_kl,
    per_window,
    target_ids,
    target_kl,
    target_logits,
    target_nll,
    window_means,
)
from oracles import token_nll

LN2 = 0.6931472


def batch_of(ids: list[list[int]], counted: list[list[int]]) -> Batch:
    windows = [
        Window(row, tuple(tokens), tuple(bool(flag) for flag in flags))
        for row, (tokens, flags) in enumerate(zip(ids, counted, strict=True))
    ]
    return collate("forget", windows, range(len(windows)))


TWO_ROWS = batch_of([[5, 0, 1], [5, 1]], [[0, 1, 1], [0, 1]])


def check_nll(nll: Callable[[Tensor, Batch], Tensor]) -> None:
    """Targets 0, 1, 1 of a vocabulary of 2: ln 4 of odds 1 : 3, ln(4/3) of the same, ln 2 of even odds."""
    logits = torch.tensor([[1.0, 3.0], [10.0, 30.0], [7.0, 7.0]]).log()
    logits[2] = 7.0
    assert nll(logits, TWO_ROWS).tolist() == pytest.approx([2 * LN2, 0.2876821, LN2])


def test_token_nll_by_hand() -> None:
    check_nll(token_nll)
    assert target_ids(TWO_ROWS).tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    "broken",
    [
        lambda logits, batch: -logits.gather(1, target_ids(batch)[:, None])[:, 0],  # raw logits
        lambda logits, batch: -token_nll(logits, batch),
        lambda logits, batch: token_nll(logits, batch).mean().expand(3),
        lambda logits, batch: functional.cross_entropy(logits, batch.ids[batch.attention][:3] % 2, reduction="none"),
    ],
)
def test_nll_check_rejects(broken: Callable[[Tensor, Batch], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_nll(broken)


def check_means(means: Callable[[Tensor, Batch], Tensor]) -> None:
    """Values 1, 3 of the first row, 5 of the second: means 2 and 5."""
    assert means(torch.tensor([1.0, 3.0, 5.0]), TWO_ROWS).tolist() == [2.0, 5.0]


def test_window_means_by_hand() -> None:
    check_means(window_means)
    assert per_window(torch.tensor([1.0, 3.0, 5.0]), TWO_ROWS).tolist() == [4.0, 5.0]


@pytest.mark.parametrize(
    "broken",
    [
        per_window,
        lambda values, batch: values.mean().expand(2),
        lambda values, batch: per_window(values, batch) / batch.attention.sum(dim=1),  # counts the prompt too
        lambda values, batch: per_window(values, batch) / batch.ids.shape[1],  # counts padding too
    ],
)
def test_means_check_rejects(broken: Callable[[Tensor, Batch], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_means(broken)


class Successor(torch.nn.Module):
    """Predicts at each place the number after the token there, with odds of e^20 to 1."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Any:
        return SimpleNamespace(logits=20.0 * functional.one_hot(input_ids + 1, 12).double())


def check_alignment(logits: Callable[[torch.nn.Module, Batch], Tensor]) -> None:
    """Rows that count upwards cost nothing; where the third token is wrong, that target alone costs 20 nats."""
    batch = batch_of([[1, 2, 3, 4, 5], [4, 5, 9]], [[0, 0, 1, 1, 1], [0, 1, 1]])
    assert token_nll(logits(Successor(), batch), batch).tolist() == pytest.approx([0, 0, 0, 0, 20], abs=1e-6)


def test_targets_are_predicted_from_the_token_before() -> None:
    check_alignment(target_logits)


@pytest.mark.parametrize("shift", [0, 2])
def test_alignment_check_rejects_a_shift(shift: int) -> None:
    def shifted(model: torch.nn.Module, batch: Batch) -> Tensor:
        full = model(batch.ids, batch.attention.long(), use_cache=False).logits
        return full.roll(shift, dims=1)[batch.counted]

    with pytest.raises(AssertionError):
        check_alignment(shifted)


def check_padding(losses: Callable[[torch.nn.Module, Batch], Tensor], model: torch.nn.Module) -> None:
    """A padded batch gives the losses of its rows one by one, in float64 (logits are rounded to float32)."""
    random = torch.Generator().manual_seed(1)
    ids = [[0, 1, *torch.randint(2, 258, (n,), generator=random).tolist(), 1] for n in (3, 30, 11)]
    ids[1][7:9] = [0, 1]  # the pad and end tokens inside a row
    batch = batch_of(ids, [[0] + [1] * (len(tokens) - 1) for tokens in ids])
    single = [losses(model, batch_of([tokens], [[0] + [1] * (len(tokens) - 1)])) for tokens in ids]
    assert losses(model, batch).tolist() == pytest.approx([float(one) for one in single], rel=1e-6)


def row_means(model: torch.nn.Module, batch: Batch) -> Tensor:
    with torch.no_grad():
        return window_means(token_nll(target_logits(model, batch), batch), batch)


@pytest.mark.parametrize("family", ["make_llama", "make_gpt2", "make_opt"])
def test_padding_changes_nothing(family: str, request: pytest.FixtureRequest) -> None:
    check_padding(row_means, request.getfixturevalue(family)().double())


def test_padding_check_rejects_a_mask_by_pad_token(make_llama: Callable[..., Any]) -> None:
    def masked(model: torch.nn.Module, batch: Batch) -> Tensor:
        seen = batch.ids != 0 if len(batch.ids) > 1 else batch.attention
        return row_means(model, replace(batch, attention=seen))

    def over_padding(model: torch.nn.Module, batch: Batch) -> Tensor:
        whole = replace(batch, counted=torch.ones_like(batch.counted))
        whole.counted[:, 0] = False
        return row_means(model, whole)

    model = make_llama().double()
    for broken in (masked, over_padding):
        with pytest.raises(AssertionError):
            check_padding(broken, model)


def five_rows() -> Batch:
    random = torch.Generator().manual_seed(2)
    ids = [[0, *torch.randint(2, 258, (n,), generator=random).tolist(), 1] for n in (3, 30, 11, 17, 29)]
    return batch_of(ids, [[0] * (len(tokens) // 3) + [1] * (len(tokens) - len(tokens) // 3) for tokens in ids])


def kept_of(batch: Batch, entries: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(3)
    logits = torch.randn(int(batch.counted.sum()), 258, generator=random, dtype=torch.float64)
    return tuple(logits.log_softmax(1).topk(entries, dim=1))  # type: ignore[return-value]


Value = Callable[[Any, Batch], Tensor]


def plain_value(model: Any, batch: Batch) -> Tensor:
    """A scalar of the losses and divergences of single targets, from the whole logits."""
    logits, places = target_logits(model, batch), torch.arange(int(batch.counted.sum())).double()
    kl = kept_kl(logits.log_softmax(dim=1), *kept_of(batch, 20))
    return (token_nll(logits, batch) * places.cos()).sum() + (kl * places.sin()).sum()


def chunked_value(model: Any, batch: Batch) -> Tensor:
    places = torch.arange(int(batch.counted.sum())).double()
    kl = target_kl(model, batch, kept_of(batch, 20))
    return (target_nll(model, batch) * places.cos()).sum() + (kl * places.sin()).sum()


def check_chunks(
    chunked: Value, model: Any, calls: list[int], monkeypatch: pytest.MonkeyPatch, within: float = 1e-10
) -> None:
    """Values and gradients of logits made seven targets at a time, against the whole."""
    batch = five_rows()
    expected = plain_value(model, batch)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    monkeypatch.setattr(losses, "MOST_LOGITS", 0)
    monkeypatch.setattr(losses, "CHUNK_LOGITS", 7 * 258 + 5)
    calls.clear()
    found = chunked(model, batch)
    assert max(calls) <= 7 and len(calls) > 10  # places that went through the head at once
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-10)
    for one, other in zip(gradients, torch.autograd.grad(found, list(model.parameters())), strict=True):
        assert torch.allclose(one, other, rtol=within, atol=within / 100)


def counting(model: Any, calls: list[int]) -> Any:
    """Notes how many places the head sees at once (beside the first of each window)."""
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda module, given, out: calls.append(out.shape[1] if len(out) == 1 else 1))
    return model


@pytest.mark.parametrize(
    ("family", "within"), [("make_llama", 1e-5), ("make_gpt2", 1e-10), ("make_opt", 1e-10)]
)  # Llama's norms round to float32 whatever the model's dtype
def test_chunks_change_neither_values_nor_gradients(
    family: str, within: float, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    model = counting(request.getfixturevalue(family)().double(), calls)
    check_chunks(chunked_value, model, calls, monkeypatch, within)
    with torch.no_grad():
        assert float(chunked_value(model, five_rows())) == pytest.approx(float(plain_value(model, five_rows())), 1e-10)


def _without_the_last(model: Any, batch: Batch) -> Tensor:
    nll = target_nll(model, batch)
    return chunked_value(model, batch) - nll[-1] * float(torch.tensor(len(nll) - 1.0).double().cos())


def _detached(model: Any, batch: Batch) -> Tensor:
    value = chunked_value(model, batch)
    return 0.5 * value + 0.5 * value.detach()


@pytest.mark.parametrize("broken", [_without_the_last, _detached, plain_value])  # the last makes them all at once
def test_chunk_check_rejects(broken: Value, make_gpt2: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    with pytest.raises(AssertionError):
        check_chunks(broken, counting(make_gpt2().double(), calls), calls, monkeypatch)


def head_places(model: Any, batch: Batch, value: Value) -> int:
    """Most places of one call of the head, while the value and its gradients are as those of all logits."""
    calls: list[int] = []
    handle = model.get_output_embeddings().register_forward_hook(
        lambda module, given, out: calls.append(out.shape[0] * out.shape[1])
    )
    found = value(model, batch)
    gradients = torch.autograd.grad(found, list(model.parameters()))
    handle.remove()
    expected = plain_value(model, batch)
    for one, other in zip(gradients, torch.autograd.grad(expected, list(model.parameters())), strict=True):
        assert torch.allclose(one, other, rtol=1e-9, atol=1e-11)
    return max(calls)


def test_prompts_and_padding_never_go_through_the_head(make_gpt2: Callable[..., Any]) -> None:
    """Of a batch in which few places are targets; where nearly all are, all go through."""
    model, batch = make_gpt2().double(), five_rows()
    few = replace(batch, counted=batch.counted & (torch.arange(batch.ids.shape[1]) % 3 == 1))
    targets = int(few.counted.sum())
    assert targets < losses.FEW_TARGETS * few.size
    assert head_places(model, few, chunked_value) == max(targets, len(few.ids))
    assert head_places(model, few, plain_value) == few.size  # the check sees a head that makes all of them
    whole = replace(batch, counted=torch.ones_like(batch.counted).index_fill(1, torch.tensor([0]), False))
    assert head_places(model, whole, chunked_value) == whole.size


def test_models_that_change_what_the_head_makes_are_asked_for_their_own_logits(
    make_llama: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As those that cap logits: the head alone would give other losses."""
    model = make_llama().double()

    def cap(module: Any, given: Any, output: Any) -> Any:
        output.logits = 2 * torch.tanh(output.logits / 2) + 1.0
        output.logits[..., 7] += 1
        return output

    model.register_forward_hook(cap)
    batch = five_rows()
    expected = token_nll(target_logits(model, batch), batch)
    monkeypatch.setattr(losses, "MOST_LOGITS", 0)
    assert torch.equal(target_nll(model, batch), expected)


ORIGINAL = torch.tensor([[1 / 2, 1 / 4, 1 / 4]], dtype=torch.float64).log()
CURRENT = torch.tensor([[1 / 4, 1 / 4, 1 / 2]], dtype=torch.float64).log()


def check_kl(kl: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    """Full: 1/2 ln 2 + 0 + 1/4 ln 1/2 = ln(2)/4. One kept: 1/2 ln 2 + 1/2 ln(1/2 / 3/4) = ln 2 - ln(3)/2."""
    current = CURRENT + 3.0  # logits need not be normalised
    for kept, wanted in (([0, 1, 2], LN2 / 4), ([2, 0, 1], LN2 / 4), ([0], LN2 - 1.0986123 / 2)):
        ids = torch.tensor([kept])
        assert float(kl(current, ORIGINAL.gather(1, ids), ids)) == pytest.approx(wanted, abs=1e-6)


def of_logits(logits: Tensor, kept: Tensor, ids: Tensor) -> Tensor:
    """As the methods call it."""
    return kept_kl(logits.log_softmax(dim=1), kept, ids)


def test_kept_kl_by_hand() -> None:
    check_kl(of_logits)


@pytest.mark.parametrize(
    "broken",
    [
        kept_kl,  # raw logits in the place of log-probabilities
        lambda logits, kept, ids: -of_logits(logits, kept, ids),
        lambda logits, kept, ids: (kept.exp() * (kept - logits.log_softmax(1).gather(1, ids))).sum(1),  # no tail
        lambda logits, kept, ids: functional.kl_div(  # the other way round
            ORIGINAL, logits.log_softmax(1), log_target=True, reduction="sum"
        ).reshape(1),
    ],
)
def test_kl_check_rejects(broken: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_kl(broken)


def random_pair(seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    draw = [3 * torch.randn(6, 40, generator=random, dtype=torch.float64) for _ in range(2)]
    return draw[0].log_softmax(1).to(dtype), draw[1].log_softmax(1).to(dtype)


def test_kept_kl_is_exact_for_all_and_a_rising_lower_bound_for_few() -> None:
    original, current = random_pair(0)
    full = functional.kl_div(current, original, log_target=True, reduction="none").sum(1)
    before = torch.zeros(6, dtype=torch.float64)
    for kept in (1, 3, 10, 39, 40):
        best = original.topk(kept, dim=1)
        found = kept_kl(current, best.values, best.indices)
        assert (found >= before - 1e-6).all() and (found <= full + 1e-6).all()  # tails are known to a millionth
        before = found
    assert torch.allclose(before, full, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("scale", [1.0, 30.0])  # the second leaves nothing for the tail
def test_kept_kl_of_equal_distributions_is_zero(dtype: torch.dtype, scale: float) -> None:
    original = (scale * random_pair(1)[0]).log_softmax(1).to(dtype).requires_grad_(True)
    for kept in (1, 10, 40):
        best = original.detach().topk(kept, dim=1)
        found = kept_kl(original.log_softmax(1), best.values, best.indices)
        assert found.abs().max() < 1e-5
        assert torch.isfinite(torch.autograd.grad(found.sum(), original)[0]).all()


def check_huber(loss: Callable[[Tensor, float], Tensor]) -> None:
    """Width 1/2: 0.2 ** 2 / 1; 2 - 1/4; both branches meet at 1/2 with 1/4."""
    gap = torch.tensor([0.0, 0.2, 2.0, -2.0, 0.5, -0.5], dtype=torch.float64, requires_grad=True)
    found = loss(gap, 0.5)
    assert found.tolist() == pytest.approx([0, 0.04, 1.75, 1.75, 0.25, 0.25])
    (slope,) = torch.autograd.grad(found.sum(), gap)
    assert slope.tolist() == pytest.approx([0, 0.4, 1, -1, 1, -1])


def test_huber_by_hand() -> None:
    check_huber(huber)


def _torch_huber(gap: Tensor, width: float) -> Tensor:
    return functional.huber_loss(gap, torch.zeros_like(gap), reduction="none", delta=width)


def _squares(gap: Tensor, width: float) -> Tensor:
    return gap**2 / (2 * width)


def _one_sided(gap: Tensor, width: float) -> Tensor:
    return huber(gap.clamp(min=0), width)


BROKEN: Sequence[Callable[[Tensor, float], Tensor]] = (_torch_huber, _squares, _one_sided)


@pytest.mark.parametrize("broken", BROKEN)
def test_huber_check_rejects(broken: Callable[[Tensor, float], Tensor]) -> None:
    with pytest.raises(AssertionError):
        check_huber(broken)
