"""What work costs: passes of the model by their shapes, texts that are generated, and what is kept meanwhile.

Who works says what it costs in these; plans turn it into FLOPs, bytes and time, budgets into tokens, and people read
row passes (one row forward and backward). Shapes are the user's rows, drawn and batched as the run does it.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import NamedTuple

from expunge.data.batches import Batch, Stream, by_length
from expunge.data.tokens import Window

MEASURING = 1 / 3  # of the work of a forward and backward pass: what a forward pass alone takes
MOST_DRAWN = 24  # steps that are drawn to find the mean step
MEASURED_TOGETHER = 32  # windows of a batch that only measures


class Shape(NamedTuple):
    """A batch: B windows, T tokens to which they are padded, N targets, and how many tokens are no padding."""

    windows: int
    width: int
    targets: int
    tokens: int


class Texts(NamedTuple):
    """Generation of one batch: B prompts of T tokens and at most `new` tokens after each."""

    windows: int
    prompt: int
    new: int


Weighed = list[tuple[float, Shape]]  # how often each shape goes through the model


@dataclass(slots=True)
class Passes:
    """The cost of some work, which adds up.

    `trained`: forward and backward passes; `measured`: forward passes of the model with its subspace in place; `plain`:
    forward passes of a plain model (the original, the written one, a base). `updates`: how often weights move. `kept`:
    targets for which the original's distribution is kept, and tokens for which its hidden states are, by what is kept.
    `products`: FLOPs of matrix products beside the model, such as those of a curvature.
    At the worst time: `copies` of the weights that move, beside weights, gradients and the optimiser's moments, and
    `bytes` of other tensors, such as a curvature's.
    """

    trained: Weighed = field(default_factory=list)
    measured: Weighed = field(default_factory=list)
    plain: Weighed = field(default_factory=list)
    generated: list[Texts] = field(default_factory=list)
    updates: float = 0.0
    products: float = 0.0
    kept: Counter[str] = field(default_factory=Counter)
    copies: int = 0
    bytes: int = 0

    def __add__(self, other: "Passes") -> "Passes":
        """One after the other: passes add up, and of what is held at a time the larger counts."""
        return Passes(
            trained=self.trained + other.trained,
            measured=self.measured + other.measured,
            plain=self.plain + other.plain,
            generated=self.generated + other.generated,
            updates=self.updates + other.updates,
            products=self.products + other.products,
            kept=self.kept + other.kept,
            copies=max(self.copies, other.copies),
            bytes=max(self.bytes, other.bytes),
        )

    @property
    def tokens(self) -> float:
        """Tokens through the model, padding excluded; a forward pass alone counts a third."""
        trained = sum(times * shape.tokens for times, shape in self.trained)
        measured = sum(times * shape.tokens for times, shape in (*self.measured, *self.plain))
        return trained + MEASURING * measured

    @property
    def row_passes(self) -> float:
        """Windows forward and backward; forward alone counts a third, generation not at all."""
        trained = sum(times * shape.windows for times, shape in self.trained)
        measured = sum(times * shape.windows for times, shape in (*self.measured, *self.plain))
        return trained + MEASURING * measured

    def times(self, count: float) -> "Passes":
        """The same work so often; `count` is whole where texts are generated."""
        return replace(
            self,
            trained=[(count * weight, shape) for weight, shape in self.trained],
            measured=[(count * weight, shape) for weight, shape in self.measured],
            plain=[(count * weight, shape) for weight, shape in self.plain],
            generated=int(count) * self.generated,
            updates=count * self.updates,
            products=count * self.products,
        )

    def cut(self, most: int) -> "Passes":
        """The same work with at most so many places at a time, as `Batch.parts` cuts batches."""
        return replace(
            self, trained=_cut(self.trained, most), measured=_cut(self.measured, most), plain=_cut(self.plain, most)
        )


def total(parts: Iterable[Passes]) -> Passes:
    """The cost of several pieces of work, one after the other."""
    summed = Passes()
    for part in parts:
        summed = summed + part
    return summed


def measuring(windows: Sequence[Window], times: float = 1, most: int = MEASURED_TOGETHER) -> Weighed:
    """Passes over all windows in batches of like length."""
    groups = by_length(windows, range(len(windows)), most) if times else []
    return [(times, _shape([windows[index] for index in group])) for group in groups]


def drawing(
    pool: Mapping[str, Sequence[Window]],
    draws: Mapping[str, int],
    seed: int,
    steps: int,
    beside: Mapping[str, str] = MappingProxyType({}),
) -> Weighed:
    """Passes of so many steps that draw windows by split as the loop does; a sample of steps stands for all.

    `beside`: by split another one, whose windows at the same places go along (see `method.Descend`).
    """
    sampled = min(MOST_DRAWN, steps)
    streams = {name: Stream(name, pool[name], seed + place) for place, name in enumerate(draws) if name in pool}
    drawn: list[Shape] = []
    for _ in range(sampled):
        for name, stream in streams.items():
            for batch in stream.draw(draws[name]):
                drawn.append(shape_of(batch))
                if name in beside:
                    drawn.append(_shape([pool[beside[name]][place] for place in batch.windows.tolist()]))
    return [(steps / sampled, shape) for shape in drawn]


def shape_of(batch: Batch) -> Shape:
    """The shape of a batch that was drawn."""
    windows, width = batch.ids.shape
    return Shape(windows, width, int(batch.counted.sum()), int(batch.attention.sum()))


def _shape(windows: Sequence[Window]) -> Shape:
    lengths = [len(window.ids) for window in windows]
    return Shape(len(windows), max(lengths), sum(window.targets for window in windows), sum(lengths))


def _cut(passes: Weighed, most: int) -> Weighed:
    """Passes over the parts; targets and tokens are shared out evenly."""
    parts: Weighed = []
    for times, shape in passes:
        fitting = max(1, most // shape.width)
        for begin in range(0, shape.windows, fitting):
            part = min(fitting, shape.windows - begin)
            share = part / shape.windows
            parts.append(
                (times, Shape(part, shape.width, math.ceil(shape.targets * share), math.ceil(shape.tokens * share)))
            )
    return parts
