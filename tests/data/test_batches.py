"""Batches: padding by length, draws without replacement, weights that sum to 1."""

from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch

from expunge.data.batches import Batch, Stream, by_length, collate, dealt, passes
from expunge.data.tokens import Window
from expunge.runs import distributed

PAD = 0  # what the padded places hold, and here also the end token, inside a row too


def make(lengths: Sequence[int]) -> list[Window]:
    return [
        Window(place, tuple(range(1, length + 1)), (False,) + (True,) * (length - 1))
        for place, length in enumerate(lengths)
    ]


def check_padding(collating: Callable[[str, Sequence[Window], Sequence[int]], Batch]) -> None:
    windows = [
        Window(4, (7, PAD, 8, PAD), (False, True, True, True)),
        Window(5, (PAD, 9), (False, True)),
        Window(6, (1, 2, 3, 4, 5), (False, False, False, True, True)),
    ]
    batch = collating("forget", windows, [2, 0, 1])
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5], [7, PAD, 8, PAD, PAD], [PAD, 9, PAD, PAD, PAD]]
    assert batch.attention.int().tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]
    assert batch.counted.int().tolist() == [[0, 0, 0, 1, 1], [0, 1, 1, 1, 0], [0, 1, 0, 0, 0]]
    assert (batch.rows.tolist(), batch.windows.tolist()) == ([6, 4, 5], [2, 0, 1])


def _by_pad_token(split: str, windows: Sequence[Window], chosen: Sequence[int]) -> Batch:
    batch = collate(split, windows, chosen)
    return Batch(split, batch.ids, batch.ids != PAD, batch.counted, batch.rows, batch.windows)


def test_padding_is_masked_by_length() -> None:
    check_padding(collate)


def test_padding_check_rejects_masks_by_pad_token() -> None:
    with pytest.raises(AssertionError):
        check_padding(_by_pad_token)


def test_moving_keeps_everything() -> None:
    batch = collate("retain", make([3, 2]), [0, 1], weight=0.25)
    moved = batch.to(torch.device("cpu"))
    assert (moved.split, moved.weight) == ("retain", 0.25)
    assert all(torch.equal(getattr(moved, n), getattr(batch, n)) for n in ("ids", "attention", "counted", "rows"))


@pytest.mark.parametrize("most", [1, 3, 32])
def test_groups_cover_every_window_once_with_little_padding(most: int) -> None:
    lengths = [3, 40, 5, 5, 100, 41, 2, 99, 60, 38, 5, 7]
    groups = by_length(make(lengths), range(len(lengths)), most)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        sizes = [lengths[index] for index in group]
        assert len(group) <= most and min(sizes) >= 0.85 * max(sizes) - 6
    assert by_length(make(lengths), [7, 1], most) in ([[7], [1]],)
    assert by_length(make(lengths), [], most) == []


# Tokens of a window, with how many of a thousand rows have about that: the spread of LUME's, from short questions with
# answers to documents.
SPREAD = {9: 60, 13: 270, 15: 210, 20: 160, 40: 60, 70: 60, 110: 40, 180: 50, 240: 70, 290: 20}


def padding(batches: Sequence[Batch]) -> float:
    """The share of all places that holds no token."""
    return 1 - sum(int(batch.attention.sum()) for batch in batches) / sum(batch.ids.numel() for batch in batches)


def like_lume() -> list[Window]:
    spread = torch.Generator().manual_seed(0)
    around = [
        max(2, round(length * (0.85 + 0.3 * float(torch.rand((), generator=spread)))))
        for length, count in SPREAD.items()
        for _ in range(count)
    ]
    return make(around)


@pytest.mark.parametrize("rows", [12, 24, 48])
def test_less_than_a_tenth_of_a_draw_is_padding(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    windows = like_lume()
    assert padding(list(passes("forget", windows))) < 0.1
    batches = [batch for _ in range(20) for batch in Stream("forget", windows, 0).draw(rows)]
    assert padding(batches) < 0.1
    assert len(batches) < 20 * rows / 2
    monkeypatch.setattr("expunge.data.batches.is_near", lambda length, longest: True)
    ungrouped = [batch for _ in range(20) for batch in Stream("forget", windows, 0).draw(rows)]
    assert padding(ungrouped) > 0.5  # what the check must reject


def test_passes_give_every_window_once() -> None:
    windows = make([3, 9, 4, 9, 20])
    batches = list(passes("forget", windows, most=2))
    assert sorted(i for batch in batches for i in batch.windows.tolist()) == [0, 1, 2, 3, 4]
    for batch in batches:
        for place, index in enumerate(batch.windows.tolist()):
            assert tuple(batch.ids[place][batch.attention[place]].tolist()) == windows[index].ids


def drawn(batches: Sequence[Batch]) -> list[int]:
    return [index for batch in batches for index in batch.windows.tolist()]


def check_epochs(draw: Callable[[int], list[int]], count: int, size: int, draws: int) -> None:
    """No window twice in a draw; no window a second time in an epoch, so counts differ by at most one."""
    seen: Counter[int] = Counter(dict.fromkeys(range(count), 0))
    for _ in range(draws):
        chosen = draw(size)
        assert len(chosen) == len(set(chosen)) == min(size, count)
        seen.update(chosen)
        assert max(seen.values()) - min(seen.values()) <= 1


@pytest.mark.parametrize(("count", "size"), [(12, 4), (10, 4), (5, 3), (7, 7), (3, 16), (1, 1)])
def test_streams_draw_epoch_by_epoch(count: int, size: int) -> None:
    stream = Stream("forget", make([5] * count), seed=3)
    check_epochs(lambda n: drawn(stream.draw(n)), count, size, draws=60)


def test_epoch_check_rejects_draws_with_replacement() -> None:
    generator = torch.Generator().manual_seed(0)
    with pytest.raises(AssertionError):
        check_epochs(lambda n: torch.randint(12, (n,), generator=generator).tolist(), 12, 4, draws=60)
    with pytest.raises(AssertionError):  # without replacement within a draw only
        check_epochs(lambda n: torch.randperm(12, generator=generator)[:n].tolist(), 12, 4, draws=60)


def test_streams_follow_their_seed() -> None:
    first, again, other = (Stream("forget", make([5] * 20), seed=seed) for seed in (1, 1, 2))
    order = [drawn(first.draw(6)) for _ in range(5)]
    assert order == [drawn(again.draw(6)) for _ in range(5)]
    assert order != [drawn(other.draw(6)) for _ in range(5)]


@pytest.mark.parametrize("by_tokens", [False, True])
def test_weights_of_a_draw_sum_to_one(by_tokens: bool) -> None:
    windows = make([3, 40, 5, 5, 100, 41, 2, 99])
    batches = Stream("forget", windows, 0, by_tokens).draw(8, most=3)
    assert len(batches) > 2
    assert sum(batch.weight for batch in batches) == pytest.approx(1)
    # targets are length - 1: 295 - 8 = 287 in all
    for batch in batches:
        share = int(batch.counted.sum()) / 287 if by_tokens else len(batch.rows) / 8
        assert batch.weight == pytest.approx(share)


def dealt_to(rank: int, count: int, drawn: list[Batch], monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """What one of several processes gets."""
    monkeypatch.setattr(distributed, "processes", lambda: count)
    monkeypatch.setattr(distributed, "_rank", lambda: rank)
    return list(dealt(drawn))


@pytest.mark.parametrize("by_tokens", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 20])
def test_every_window_is_dealt_to_one_process_with_its_weight(
    by_tokens: bool, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lengths 2 to 8 are seven windows in batches of at most four; of 20 processes most get none."""
    windows = make([2, 3, 4, 5, 6, 7, 8])
    drawn = Stream("retain", windows, 0, by_tokens).draw(7, most=4)
    shares = [dealt_to(rank, count, drawn, monkeypatch) for rank in range(count)]
    given = [window for share in shares for batch in share for window in batch.windows.tolist()]
    assert sorted(given) == list(range(7))
    sizes = [sum(len(batch.windows) for batch in share) for share in shares]
    assert max(sizes) - min(sizes) <= 1
    assert sum(batch.weight for share in shares for batch in share) == pytest.approx(1)
    everything = sum(window.targets for window in windows)
    for batch in (batch for share in shares for batch in share):
        targets = sum(windows[index].targets for index in batch.windows.tolist())
        assert batch.weight == pytest.approx(targets / everything if by_tokens else len(batch.windows) / 7)
        assert batch.attention.any(dim=0).all()  # no column is padding alone
        assert [windows[index].row for index in batch.windows.tolist()] == batch.rows.tolist()
