"""Padded batches and seeded streams. Padding is masked by length, never by comparing ids with a pad token.

Shapes: B windows, T tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from expunge.data.tokens import Window

MOST_PADDING = 0.15  # of a window, and SLACK tokens: below a tenth over rows like LUME's, with few more batches
SLACK = 6


@dataclass(frozen=True, slots=True)
class Batch:
    """Windows of one split, padded on the right.

    `ids` [B, T] long; `attention` [B, T] bool, true within each window's length; `counted` [B, T] bool, true where
    the token is a target; `rows` [B] index of each window's row in its split; `windows` [B] index of each window in
    its split; `weight` the share of its draw that this batch carries (batches of one draw sum to 1), counted in windows
    or, with `by_tokens`, in targets.
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
        return [self._part(group[0], group[-1] + 1, max(widths[place] for place in group)) for group in groups]

    def _part(self, begin: int, end: int, width: int) -> "Batch":
        counted = self.counted[begin:end, :width]
        share = counted.sum().item() / self.counted.sum().item() if self.by_tokens else (end - begin) / len(self.ids)
        return replace(
            self,
            ids=self.ids[begin:end, :width],
            attention=self.attention[begin:end, :width],
            counted=counted,
            rows=self.rows[begin:end],
            windows=self.windows[begin:end],
            weight=self.weight * share,
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
    """Every window once, grouped by length: for measuring, not for training."""
    for group in by_length(windows, range(len(windows)), most):
        yield collate(split, windows, group)


class Stream:
    """Draws windows of one split without replacement, epoch by epoch, from a seed of its own.

    `draw(n)` returns the batches that together hold `n` windows (all of them where there are fewer), weighted by
    windows or, with `by_tokens`, by targets.
    """

    def __init__(self, split: str, windows: Sequence[Window], seed: int, by_tokens: bool = False) -> None:
        self.split, self.windows, self.by_tokens = split, windows, by_tokens
        self._random = np.random.default_rng(seed)
        self._queue: list[int] = []

    def draw(self, count: int, most: int = 32) -> list[Batch]:
        count = min(count, len(self.windows))
        chosen: list[int] = []
        while len(chosen) < count:
            if not self._queue:
                fresh = [int(index) for index in self._random.permutation(len(self.windows))]
                self._queue = sorted(fresh, key=lambda index: index not in chosen)  # those of this draw come last
            chosen.append(self._queue.pop())
        sizes = [self.windows[index].targets if self.by_tokens else 1 for index in chosen]
        size = dict(zip(chosen, sizes, strict=True))
        return [
            collate(self.split, self.windows, group, sum(size[index] for index in group) / sum(sizes), self.by_tokens)
            for group in by_length(self.windows, chosen, most)
        ]
