"""Sums over examples: gradients, their squares, norms, and the gradients themselves for few parameters.

An example is a row; its loss is the *sum* over its targets. Sums are kept with counters (examples, tokens), so that
whoever uses them says what they are divided by, once. See `gradients.cotangents` for the label sources.

Shapes: E examples, P parameters, B windows, N targets, V vocabulary.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product

import torch
from torch import Tensor

from expunge import distributed
from expunge.data.batches import Batch, collate, is_near
from expunge.errors import InputError
from expunge.gradients.capture import Capture, capturing
from expunge.gradients.cotangents import (
    Labels,
    exact_cotangent,
    mixed,
    sampled_labels,
    turn_into_label_cotangent,
    turn_into_noise_cotangent,
)
from expunge.model.losses import target_ids, target_logits
from expunge.problem import Problem, Split
from expunge.progress import bar

BATCH_WINDOWS = 16
MOST_EXACT = 1024  # vocabulary that `exact` labels are taken of: a backward pass each, at every place


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which sums a pass keeps. `by_token` keeps in `squares` the sum of squared single-token gradients instead, and
    `by_batch` the squares of whole batches' sums: named approximations, see `curvatures.diagonal`."""

    total: bool = False
    squares: bool = False
    norms: bool = False
    stacked: bool = False
    by_token: bool = False
    by_batch: bool = False


@dataclass(slots=True)
class Sums:
    """What a pass over a split found; by parameter name, in the wider of float32 and the parameter's dtype.

    `total` and `squares` [*shape]; `norms` [E] squared l2 norms over all parameters; `stacked` [vectors, *shape], one
    vector per example and pass: the rows in their order, pass after pass. `examples` and `tokens` (targets) count the
    split once, `passes` how often it was seen.
    """

    total: dict[str, Tensor] = field(default_factory=dict)
    squares: dict[str, Tensor] = field(default_factory=dict)
    norms: Tensor = field(default_factory=lambda: torch.zeros(0))
    stacked: dict[str, Tensor] = field(default_factory=dict)
    examples: int = 0
    tokens: int = 0
    passes: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A batch of whole rows, or some windows of one long row (`unfinished`: more follow).

    `places` [E]: the rows' places in the split; `local` [B]: to which of them each window belongs.
    """

    batch: Batch
    places: tuple[int, ...]
    local: Tensor
    unfinished: bool = False


def row_pieces(split: Split, most: int = BATCH_WINDOWS, tokens: int | None = None) -> list[Piece]:
    """This process's share of the rows, each once, at most `most` windows in a batch and so many `tokens`.

    The same rows stand together however many processes there are, but for what `tokens` cuts on each of them.
    """
    windows: dict[int, list[int]] = {}
    for index, window in enumerate(split.windows):
        windows.setdefault(window.row, []).append(index)
    lengths = {row: max(len(split.windows[index].ids) for index in own) for row, own in windows.items()}

    def groups(rows: Iterable[int], tokens: int | None) -> Iterator[tuple[list[int], int]]:
        """Rows of like length that stand together, or one long row, and how many windows fit a batch of them."""
        group: list[int] = []
        fitting = most
        for row in sorted(rows, key=lambda row: (-lengths[row], row)):
            count = sum(len(windows[other]) for other in [*group, row])
            if group and (count > fitting or not is_near(lengths[row], lengths[group[0]])):
                yield group, fitting
                group = []
            if not group:
                fitting = most if tokens is None else max(1, min(most, tokens // lengths[row]))
            group.append(row)
        if group:
            yield group, fitting

    whole = [rows for rows, _ in groups(windows, None)]
    return [
        piece
        for rows in distributed.share(whole)
        for group, fitting in groups(rows, tokens)
        for piece in _batches(split, group, windows, fitting)
    ]


def _batches(split: Split, rows: Sequence[int], windows: dict[int, list[int]], most: int) -> Iterator[Piece]:
    """One batch, or several where a row has more windows than `most`."""
    chosen = [index for row in rows for index in windows[row]]
    local = torch.tensor([place for place, row in enumerate(rows) for _ in windows[row]])
    for start in range(0, len(chosen), most):
        end = start + most
        batch = collate(split.name, split.windows, chosen[start:end])
        yield Piece(batch, tuple(rows), local[start:end], end < len(chosen))


def measure(
    problem: Problem,
    split: Split,
    wanted: Wanted,
    labels: Labels,
    *,
    passes: int = 1,
    seed: int | None = None,
    windows: int = BATCH_WINDOWS,
    title: str = "",
) -> Sums:
    """Passes over a split at the current weights, dropout off; the model's gradients are left as they were.

    `passes` repeats random label sources with fresh draws. Raises `InputError` for a layer without per-example
    gradients, and for `exact` labels where the vocabulary makes them absurd.
    """
    if wanted.by_batch and wanted.stacked:
        raise ValueError("squares of batches have no single examples to stack")
    if labels == "exact" and (vocabulary := problem.model.config.vocab_size) > MOST_EXACT:
        raise InputError(
            f"labels exact: a backward pass for each of {vocabulary:,} vocabulary entries at every place of a row is "
            f"for models of at most {MOST_EXACT:,}. Use labels: noise, which has the same mean."
        )
    seed = problem.seed if seed is None else seed
    seeds = [mixed(seed, number) for number in range(passes)]
    title = title or f"gradients of {split.name} rows"
    while (gathered := _walked(problem, split, wanted, labels, seeds, windows, title)) is None:
        pass  # memory did not hold a piece, and what hooks had handed over of it cannot be taken back: all over again
    gathered.sums.examples = len(split.rows)
    gathered.sums.tokens = sum(window.targets for window in split.windows)
    gathered.sums.passes = passes
    return gathered.finished()


def _walked(
    problem: Problem, split: Split, wanted: Wanted, labels: Labels, seeds: Sequence[int], windows: int, title: str
) -> "_Gathered | None":
    """What passes with these seeds gather; None where memory did not hold a piece, which is smaller the next time."""
    gathered = _Gathered(Sums(), wanted, len(split.rows), len(seeds))
    pieces = row_pieces(split, windows, problem.portions.tokens)
    with (
        capturing(problem.model, problem.movable, gathered.take, wanted.by_token) as capture,
        bar(title, len(seeds) * len(pieces)) as report,
    ):
        for done, ((number, seed), piece) in enumerate(product(enumerate(seeds), pieces), start=1):
            gathered.open(piece, number)
            if not problem.portions.fits(piece.batch, lambda _: _walk(problem, capture, piece, labels, seed)):  # noqa: B023
                return None
            gathered.close(piece)
            report(done)
    return gathered


def _walk(problem: Problem, capture: Capture, piece: Piece, labels: Labels, seed: int) -> None:
    """One forward pass and its backward pass (for `exact`, one of each for every place and vocabulary entry)."""
    batch = piece.batch.to(problem.runtime.device)
    keys = list(zip(piece.batch.windows.tolist(), piece.batch.counted.sum(dim=1).tolist(), strict=True))
    steps = _exact_steps(problem, piece) if labels == "exact" else iter([(torch.empty(0), 0)])
    for chosen, entry in steps:
        capture.begin(piece.local, batch.ids.shape[1], piece.unfinished)
        with problem.runtime.autocast():
            logits = target_logits(problem.model, batch)
        with torch.no_grad():
            if labels == "exact":
                cotangent = exact_cotangent(logits, chosen, entry)
            else:
                cotangent = _cotangent(logits.detach(), batch, labels, seed, keys)
        capture.backward(logits, cotangent)


def _cotangent(logits: Tensor, batch: Batch, labels: Labels, seed: int, keys: list[tuple[int, int]]) -> Tensor:
    if labels == "data":
        return turn_into_label_cotangent(logits, target_ids(batch), keys)
    if labels == "sampled":
        return turn_into_label_cotangent(logits, sampled_labels(logits, seed, keys), keys)
    return turn_into_noise_cotangent(logits, seed, keys)


def _exact_steps(problem: Problem, piece: Piece) -> Iterator[tuple[Tensor, int]]:
    """The k-th target of every row, and each entry of the vocabulary, in turn."""
    assert not piece.unfinished, "exact labels are for rows that fit one batch"
    order = piece.local[piece.batch.counted.nonzero()[:, 0]]
    seen = torch.zeros(len(piece.places), dtype=torch.long)
    ranks = torch.empty(len(order), dtype=torch.long)
    for target, row in enumerate(order.tolist()):
        ranks[target] = seen[row]
        seen[row] += 1
    for rank in range(int(seen.max())):
        for entry in range(problem.model.config.vocab_size):
            yield (ranks == rank).to(problem.runtime.device), entry


@dataclass(slots=True)
class _Gathered:
    """Adds what the hooks hand over to the sums, and those of all processes in the end."""

    sums: Sums
    wanted: Wanted
    examples: int
    passes: int
    _places: tuple[int, ...] = ()
    _first: int = 0
    _batch: dict[str, Tensor] = field(default_factory=dict)
    _norms: dict[str, Tensor] = field(default_factory=dict)

    def open(self, piece: Piece, number: int) -> None:
        """`number`: of the pass."""
        self._places, self._first = piece.places, number * self.examples

    def close(self, piece: Piece) -> None:
        """The end of a batch: the point at which a batch's sum is squared, where that was wanted."""
        if self.wanted.by_batch and not piece.unfinished:
            for name, total in self._batch.items():
                _add(self.sums.squares, name, total.square())
            self._batch = {}

    def take(self, name: str, gradients: Tensor, rows: slice) -> None:
        """Gradients [e, *shape] of some rows of the batch (with `by_token`, squares already)."""
        if self.wanted.by_token:
            _add(self.sums.squares, name, gradients[0])
            return
        if self.wanted.total:
            _add(self.sums.total, name, gradients.sum(dim=0))
        if self.wanted.by_batch:
            _add(self._batch, name, gradients.sum(dim=0))
        if self.wanted.norms:
            norms = self._norms.setdefault("norms", gradients.new_zeros(self.examples))
            norms[list(self._places[rows])] += gradients.flatten(1).square().sum(dim=1)
        if self.wanted.stacked:
            if name not in self.sums.stacked:
                self.sums.stacked[name] = gradients.new_zeros(self.passes * self.examples, *gradients.shape[1:])
            self.sums.stacked[name][[self._first + place for place in self._places[rows]]] = gradients
        if self.wanted.squares and not self.wanted.by_batch:
            _add(self.sums.squares, name, gradients.square_().sum(dim=0))  # in place, so it comes last

    def finished(self) -> Sums:
        for found in (self.sums.total, self.sums.squares, self.sums.stacked, self._norms):
            distributed.total_(found)
        self.sums.norms = self._norms.get("norms", self.sums.norms)
        return self.sums


def _add(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    if name in sums:
        sums[name] += value
    else:
        sums[name] = value
