"""Chunked gradient difference: chunk after chunk of the forget rows, each among many retain rows of its own.

    loss = (-sum_f L_f + retain_weight * sum_r L_r) / (forget_rows + retain rows of the step)

for a step's forget rows f out of one chunk and, for each, `retain_rows` retain rows r. The chunks, `chunk_rows` each in
the order of the rows, are gone through one after the other, each for `epochs` passes with a new optimiser and schedule;
a chunk's retain rows are taken in turn from all of them, `retain_rows` times as many as it has forget rows. The recipe
of AILS-NTUA (2503.02443), first of SemEval-2025 Task 4: small chunks that are really gone before the next, drowned in
rows to keep, do less harm than one long ascent. Numbers are those of the released configuration. Of the decoder layers
the last quarter moves, as 8 of 32 did there.

Departures: within a chunk the order of rows is drawn, where theirs is fixed; linear decay to a tenth of the rate. Their
alternative that moves a LoRA of rank 16 is `--subspace lora`, here in the same layers. The forget term is unbounded,
and nothing stops it but the number of epochs.

When to use it: as the strongest first-order baseline on LUME; it costs `epochs` times eight row passes a forget row.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

from expunge.config.bounds import Between, Count, Positive, Weight
from expunge.data.batches import Batch
from expunge.method import Descend, Method, Needs, Phase, State, Terms
from expunge.model.losses import target_nll, window_means
from expunge.problem import Problem, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkedDifference(Method):
    """Options of chunked_difference."""

    learning_rate: Positive = 1e-5
    """Peak learning rate of AdamW, for each chunk (the authors' value)."""
    epochs: Count = 7
    """Passes over each chunk (the authors' value)."""
    chunk_rows: Count = 32
    """Forget rows of a chunk (the authors' value)."""
    forget_rows: Count = 1
    """Forget rows a step (the authors' value)."""
    retain_rows: Count = 7
    """Retain rows for each forget row, of a step and of a chunk (the authors' value)."""
    retain_weight: Weight = 0.5
    """Weight of a retain row's cross-entropy beside a forget row's (the authors' value)."""
    depth: Annotated[float, Between(0, 1)] = 0.25
    """Share of the decoder layers that moves, from the last one on (the authors' 8 of 32)."""

    @property
    def needs(self) -> Needs:
        return Needs(retain=True, layers=self.moved, made=self.chunks)

    def moved(self, count: int) -> Sequence[int]:
        """Which of so many layers move."""
        return range(count - max(1, round(self.depth * count)), count)

    def chunks(self, problem: Problem) -> Mapping[str, Split]:
        """The chunks "forget 1", "forget 2", ... and the retain rows that go with each, "retain 1", ..."""
        forget, retain = problem.splits["forget"], problem.splits["retain"]
        turns = itertools.cycle(range(len(retain)))
        made: dict[str, Split] = {}
        for number, begin in enumerate(range(0, len(forget), self.chunk_rows), start=1):
            places = range(begin, min(begin + self.chunk_rows, len(forget)))
            beside = sorted(itertools.islice(turns, min(len(retain), self.retain_rows * len(places))))
            made[f"forget {number}"] = forget.of(places, f"forget {number}")
            made[f"retain {number}"] = retain.of(beside, f"retain {number}")
        return made

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        return tuple(
            self._chunk(problem.splits, number)
            for number in range(1, -(-len(problem.splits["forget"]) // self.chunk_rows) + 1)
        )

    def _chunk(self, splits: Mapping[str, Split], number: int) -> Descend:
        forget = f"forget {number}"
        steps = self.epochs * -(-len(splits[forget].windows) // self.forget_rows)
        draws = {forget: self.forget_rows, f"retain {number}": self.retain_rows * self.forget_rows}
        return Descend(loss=self.loss, draws=draws, steps=steps, rate=self.learning_rate, name="chunk")

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        role, _, _ = batch.split.partition(" ")
        loss = window_means(target_nll(problem.model, batch), batch).mean()
        share = 1 / (1 + self.retain_rows)  # of a step's rows that are forget rows
        weight = -share if role == "forget" else self.retain_weight * (1 - share)
        return Terms({role: loss}, weight * loss)
