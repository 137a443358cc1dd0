"""The problem that every stage receives: a model, its rows as windows, and which parameters may move."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expunge.data.batches import Batch, passes
from expunge.data.portions import Portions
from expunge.data.rows import Row
from expunge.data.splits import deal
from expunge.data.tokens import Rendering, Window
from expunge.runs.distributed import Runtime

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Split:
    """Rows of one role and their windows (`Window.row` indexes `rows`)."""

    name: str
    rows: tuple[Row, ...]
    windows: tuple[Window, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def of(self, places: Sequence[int], name: str) -> "Split":
        """The rows at those places with their windows, under a name."""
        new = {place: index for index, place in enumerate(places)}
        windows = tuple(replace(window, row=new[window.row]) for window in self.windows if window.row in new)
        return Split(name, tuple(self.rows[place] for place in places), windows)

    def joined(self, other: "Split") -> "Split":
        """These rows, then those of the other, under this name."""
        windows = tuple(replace(window, row=window.row + len(self.rows)) for window in other.windows)
        return Split(self.name, self.rows + other.rows, self.windows + windows)

    @property
    def tokens(self) -> int:
        """Tokens of all windows, whether they count or not."""
        return sum(len(window.ids) for window in self.windows)


@dataclass(slots=True)
class Problem:
    """Model, tokenizer, splits, chosen parameters and seed.

    `splits` has "forget", unless a curvature is fitted for requests to come; "retain" (trained on), "guard" (retain
    rows that only measure), "unseen" (target half of the holdout) or "counterfactual" where there are such rows; a
    method may have its retain rows divided (see `divided`), "acceptance" among the parts: the rows that proposed steps
    are measured on. `movable` are the parameters that may move; `adapter` says that our own LoRA is on the model, not
    one that was given; `base` the base model's loss [forget rows], in nats per target, and `base_margins` its margin
    [targets] of each of their targets, where a base model was given; `shared`, of a plan, names for linear weights the
    first with the same input; `fitted` makes, of the problem that a method gets, the state of a curvature that was
    fitted before, where one was given; `portions` how many tokens go through the model at a time, the same for all
    stages; `first` opens the model that requests in sequence began with, which rows to keep are held to in place of the
    original (then "earlier" is among the splits: rows that those requests removed); `low_rank`: the share of the
    change's squared norm that is to be delivered as matrices of low rank (none: whole weights).
    """

    model: Any
    tokenizer: Any
    runtime: Runtime
    rendering: Rendering
    splits: Mapping[str, Split]
    seed: int = 0
    adapter: bool = False
    movable: dict[str, Tensor] = field(default_factory=dict)
    base: NDArray[np.float64] | None = None
    base_margins: Tensor | None = None
    shared: Mapping[str, str] = field(default_factory=dict)
    fitted: "Callable[[Problem], Mapping[str, object]] | None" = None
    portions: Portions = field(default_factory=Portions)
    first: "Callable[[], AbstractContextManager[PreTrainedModel | PeftModel]] | None" = None
    low_rank: float | None = None

    def over(self, split: Split, work: Callable[[Batch], None]) -> None:
        """Calls `work` with all windows of a split once, in batches that fit, on the device.

        The work must change nothing before it has all that it asks of the model (see `Portions.each`).
        """
        for batch in passes(split.name, split.windows):
            self.portions.each(batch, lambda part: work(part.to(self.runtime.device)))

    @contextmanager
    def original(self) -> "Iterator[PreTrainedModel | PeftModel]":
        """The original model: the same weights with our own LoRA off.

        With full weights, and with an adapter that was given as the model (the original is base *plus* that adapter;
        turning it off would leave the bare base), it is the original only until they move, so whoever needs it asks in
        a method's `init`.
        """
        if not self.adapter:
            yield self.model
            return
        with self.model.disable_adapter():
            yield self.model

    @contextmanager
    def reference(self) -> "Iterator[PreTrainedModel | PeftModel]":
        """The model that rows to keep are held to: the first of a line of requests, else the original."""
        with self.original() if self.first is None else self.first() as model:
            yield model

    def snapshot(self) -> dict[str, Tensor]:
        """Copies of the movable parameters."""
        return {name: tensor.detach().clone() for name, tensor in self.movable.items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Puts a snapshot's values back."""
        with torch.no_grad():
            for name, tensor in self.movable.items():
                tensor.copy_(snapshot[name])


Made = Callable[[Problem], Mapping[str, Split]]


def divided(problem: Problem, weights: Mapping[str, int], made: Made = lambda problem: {}) -> Problem:
    """The problem with its retain rows dealt into parts (see `data.splits.deal`), which take the place of "retain", and
    with the splits that are `made` of it.

    Parts that got no row do not exist. Model and weights are the same ones.
    """
    retain = problem.splits.get("retain")
    if weights and retain is not None:
        others = {name: split for name, split in problem.splits.items() if name != "retain"}
        dealt = deal(retain.rows, weights)
        parts = {name: retain.of(places, name) for name, places in dealt.items() if places}
        problem = replace(problem, splits=others | parts)
    more = made(problem)
    return replace(problem, splits={**problem.splits, **more}) if more else problem
