"""Padded batches and seeded streams. Padding is masked by length, never by comparing ids with a pad token.

Shapes: B windows, T tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from expunge.data.tokens import Window
from expunge.runs import distributed

MOST_PADDING = 0.15  # of a window, and SLACK tokens: below a tenth over rows like LUME's, with few more batches
SLACK = 6


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows of one split, padded on the right.

    `ids` [B, T] long; `attention` [B, T] bool, true within each window's length; `counted` [B, T] bool, true where
    the token is a target; `rows` [B] index of each window's row in its split; `windows` [B] index of each window in
    its split; `weight` the share of its draw that this batch carries (batches of one draw sum to 1), which goes by
    windows or, with `by_tokens`, by targets.
    """

    split: str
    ids: Tensor
    attention: Tensor
    counted: Tensor
    rows: Tensor
    windows: Tensor
    weight: float = 1.0
    by_tokens: bool = False

    @property
    def size(self) -> int:
        """Places B * T, padding included."""
        return self.ids.numel()

    def parts(self, most: int | None) -> list["Batch"]:
        """The batch in parts of at most `most` places, though never less than a window, each with its share of the
        weight and no wider than it needs to be; the batch itself where it is small enough."""
        if most is None or self.size <= most or len(self.ids) == 1:
            return [self]
        widths = self.attention.sum(dim=1).tolist()
        groups: list[list[int]] = []
        for place, width in enumerate(widths):
            widest = max([width, *(widths[other] for other in groups[-1])]) if groups else width
            if groups and (len(groups[-1]) + 1) * widest <= most:
                groups[-1].append(place)
            else:
                groups.append([place])
        return [self.part(group) for group in groups]

    def part(self, places: Sequence[int]) -> "Batch":
        """The windows at some places, with their share of the weight and no more padding than they need."""
        sizes = self.counted.sum(dim=1).tolist() if self.by_tokens else [1] * len(self.windows)
        places = list(places)
        width = int(self.attention[places].sum(dim=1).max())
        return replace(
            self,
            ids=self.ids[places, :width],
            attention=self.attention[places, :width],
            counted=self.counted[places, :width],
            rows=self.rows[places],
            windows=self.windows[places],
            weight=self.weight * sum(sizes[place] for place in places) / sum(sizes),
        )

    def to(self, device: torch.device) -> "Batch":
        return replace(
            self,
            ids=self.ids.to(device),
            attention=self.attention.to(device),
            counted=self.counted.to(device),
            rows=self.rows.to(device),
            windows=self.windows.to(device),
        )


def collate(
    split: str, windows: Sequence[Window], chosen: Sequence[int], weight: float = 1.0, by_tokens: bool = False
) -> Batch:
    """One batch of the chosen windows."""
    picked = [windows[index] for index in chosen]
    width = max(len(window.ids) for window in picked)
    ids = torch.zeros(len(picked), width, dtype=torch.long)
    attention = torch.zeros(len(picked), width, dtype=torch.bool)
    counted = torch.zeros(len(picked), width, dtype=torch.bool)
    for place, window in enumerate(picked):
        length = len(window.ids)
        ids[place, :length] = torch.tensor(window.ids)
        attention[place, :length] = True
        counted[place, :length] = torch.tensor(window.counted)
    rows = torch.tensor([window.row for window in picked])
    return Batch(split, ids, attention, counted, rows, torch.tensor(list(chosen)), weight, by_tokens)


def is_near(length: int, longest: int) -> bool:
    """Whether a window of some length may stand beside a longer one."""
    return length >= (1 - MOST_PADDING) * longest - SLACK


def by_length(windows: Sequence[Window], chosen: Sequence[int], most: int) -> list[list[int]]:
    """Groups the chosen windows so that each group has at most `most` windows and little padding."""
    ordered = sorted(chosen, key=lambda index: (len(windows[index].ids), index))
    groups: list[list[int]] = []
    for index in reversed(ordered):
        longest = len(windows[groups[-1][0]].ids) if groups else 0
        if groups and len(groups[-1]) < most and is_near(len(windows[index].ids), longest):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def passes(split: str, windows: Sequence[Window], most: int = 32) -> Iterator[Batch]:
    """Every window once, grouped by length: for measuring, not for training.

    Of several processes each gets other batches, so what is found in them is to be summed or gathered. A batch is the
    same however many processes there are, and so is what is found in it, to the last bit.
    """
    for group in distributed.share(by_length(windows, range(len(windows)), most)):
        yield collate(split, windows, group)


def dealt(batches: Sequence[Batch]) -> Iterator[Batch]:
    """This process's part of the batches of one step: each window goes to one process, in turn; weights follow."""
    places = [(batch, place) for batch in range(len(batches)) for place in range(len(batches[batch].windows))]
    own: dict[int, list[int]] = {}
    for batch, place in distributed.share(places):
        own.setdefault(batch, []).append(place)
    for batch, chosen in own.items():
        whole = len(chosen) == len(batches[batch].windows)
        yield batches[batch] if whole else batches[batch].part(chosen)


class Stream:
    """Draws windows of one split without replacement, epoch by epoch, from a seed of its own.

    `draw(n)` returns the batches that together hold `n` windows (all of them where there are fewer), weighted by
    windows or, with `by_tokens`, by targets. Every process draws the same ones (`dealt` gives each its part).
    """

    def __init__(self, split: str, windows: Sequence[Window], seed: int, by_tokens: bool = False) -> None:
        self.split, self.windows, self.by_tokens = split, windows, by_tokens
        self._random = np.random.default_rng(seed)
        self._queue: list[int] = []

    def skip(self, count: int, times: int) -> None:
        """As if so many draws had been made."""
        for _ in range(times):
            self._choose(count)

    def draw(self, count: int, most: int = 32) -> list[Batch]:
        chosen = self._choose(count)
        sizes = [self.windows[index].targets if self.by_tokens else 1 for index in chosen]
        size = dict(zip(chosen, sizes, strict=True))
        return [
            collate(self.split, self.windows, group, sum(size[index] for index in group) / sum(sizes), self.by_tokens)
            for group in by_length(self.windows, chosen, most)
        ]

    def _choose(self, count: int) -> list[int]:
        count = min(count, len(self.windows))
        chosen: list[int] = []
        while len(chosen) < count:
            if not self._queue:
                fresh = [int(index) for index in self._random.permutation(len(self.windows))]
                self._queue = sorted(fresh, key=lambda index: index not in chosen)  # those of this draw come last
            chosen.append(self._queue.pop())
        return chosen
