"""Batches in parts: what a part is, and what is taken for a lack of memory."""

from collections.abc import Callable

import pytest
import torch

from expunge.data.batches import Batch, Stream, collate
from expunge.data.portions import Portions
from expunge.data.tokens import Window
from expunge.errors import DoesNotFit
from expunge.runs.distributed import is_out_of_memory

LENGTHS = (9, 9, 8, 5, 5, 4, 2)


def windows() -> list[Window]:
    return [Window(row, tuple(range(n)), (False,) * (n // 2) + (True,) * (n - n // 2)) for row, n in enumerate(LENGTHS)]


def whole(by_tokens: bool = False) -> Batch:
    return collate("forget", windows(), range(len(LENGTHS)), 0.5, by_tokens)


def check_parts(parts: Callable[[Batch, int], list[Batch]], by_tokens: bool) -> None:
    """At most 20 places: 2 x 9, 1 x 8 and 1 x 5 (2 x 8 and no third), 3 x 5 is 15, then 2; weights by share."""
    batch = whole(by_tokens)
    found = parts(batch, 20)
    assert [tuple(part.ids.shape) for part in found] == [(2, 9), (2, 8), (3, 5)]
    assert [place for part in found for place in part.windows.tolist()] == list(range(len(LENGTHS)))
    for part in found:
        for place, index in enumerate(part.windows.tolist()):
            assert tuple(part.ids[place][part.attention[place]].tolist()) == windows()[index].ids
            assert int(part.counted[place].sum()) == windows()[index].targets
    targets = [5 + 5, 4 + 3, 3 + 2 + 1]  # of 23
    shares = [count / 23 for count in targets] if by_tokens else [2 / 7, 2 / 7, 3 / 7]
    assert [part.weight for part in found] == pytest.approx([0.5 * share for share in shares])


@pytest.mark.parametrize("by_tokens", [False, True])
def test_parts(by_tokens: bool) -> None:
    check_parts(lambda batch, most: batch.parts(most), by_tokens)
    assert whole().parts(None)[0].size == 63 and len(whole().parts(63)) == 1
    assert [part.ids.shape[0] for part in whole().parts(1)] == [1] * 7  # never less than a window


@pytest.mark.parametrize(
    "broken",
    [
        lambda batch, most: [batch.to(torch.device("cpu"))],
        lambda batch, most: batch.parts(most)[:-1],
        lambda batch, most: [part for part in batch.parts(most) for _ in (1, 2)],
        lambda batch, most: whole(not batch.by_tokens).parts(most),  # the other kind of share
    ],
)
def test_parts_check_rejects(broken: Callable[[Batch, int], list[Batch]]) -> None:
    for by_tokens in (False, True):
        with pytest.raises(AssertionError):
            check_parts(broken, by_tokens)


def test_draws_say_what_their_weights_count() -> None:
    for by_tokens in (False, True):
        batches = Stream("forget", windows(), 0, by_tokens).draw(7)
        parts = [part for batch in batches for part in batch.parts(10)]
        assert sum(part.weight for part in parts) == pytest.approx(1)
        total = sum(window.targets for window in windows())
        for part in parts:
            share = int(part.counted.sum()) / total if by_tokens else len(part.ids) / 7
            assert part.weight == pytest.approx(share)


def runs_out(most: int, seen: list[list[int]]) -> Callable[[Batch], None]:
    def work(part: Batch) -> None:
        if part.size > most:
            raise MemoryError
        seen.append(part.windows.tolist())

    return work


def test_each_window_is_worked_on_once_whatever_fits() -> None:
    for most in (9, 20, 63):
        seen: list[list[int]] = []
        portions = Portions()
        portions.each(whole(), runs_out(most, seen))
        assert [index for part in seen for index in part] == list(range(7))
        portions.each(whole(), runs_out(most, seen))  # what was found out is remembered
        assert (portions.halvings == 0) == (most == 63)
        assert portions.tokens is None or portions.tokens <= most


def test_limits_that_were_given_are_kept() -> None:
    portions = Portions(tokens=20, adapts=False)
    seen: list[list[int]] = []
    portions.each(whole(), runs_out(20, seen))
    assert seen == [[0, 1], [2, 3], [4, 5, 6]]
    with pytest.raises(DoesNotFit, match="18 tokens at a time"):
        portions.each(whole(), runs_out(10, seen))
    portions.begin(5)
    assert portions.tokens == 20  # a guess does not go over what was given


def test_generation_is_halved_too() -> None:
    portions, said = Portions(), []

    def answer(prompts: list[int]) -> None:
        if len(prompts) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        said.extend(prompts)

    portions.generate(list(range(13)), answer)
    assert said == list(range(13)) and portions.texts == 3
    with pytest.raises(DoesNotFit):
        portions.generate([1], lambda prompts: answer([1] * 4))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory."), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you"), True),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError(), False),
        (ValueError("not enough memory"), False),
        (KeyboardInterrupt(), False),
    ],
)
def test_what_is_taken_for_a_lack_of_memory(error: BaseException, expected: bool) -> None:
    assert is_out_of_memory(error) == expected
