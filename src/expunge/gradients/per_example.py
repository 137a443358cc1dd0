"""Sums over examples of their gradients' squares, and the gradients themselves for few parameters.

An example is a row; its loss is the *sum* over its targets. Sums are kept with counters (examples, tokens), so that
whoever uses them says what they are divided by, once. See `gradients.cotangents` for the label sources.

Shapes: E examples, P parameters, B windows, N targets, V vocabulary.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Protocol

import torch
from torch import Tensor

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
from expunge.runs import distributed
from expunge.runs.progress import bar

BATCH_WINDOWS = 16
MOST_EXACT = 1024  # vocabulary that `exact` labels are taken of: a backward pass each, at every place


class Gather(Protocol):
    """What a pass keeps of the gradients that the hooks hand over; `tensors` by parameter name."""

    tensors: dict[str, Tensor]

    def take(self, name: str, gradients: Tensor, places: Sequence[int]) -> None:
        """Gradients [e, *shape] of the vectors at `places` [e], which may be changed in place."""
        ...


class Squares:
    """Sums [*shape] of the squares of all examples' gradients, over all passes."""

    def __init__(self, vectors: int) -> None:
        self.tensors: dict[str, Tensor] = {}

    def take(self, name: str, gradients: Tensor, places: Sequence[int]) -> None:
        summed = gradients.square_().sum(dim=0)
        if name in self.tensors:
            self.tensors[name] += summed
        else:
            self.tensors[name] = summed


class Stacked:
    """The gradients themselves [vectors, *shape]: the rows in their order, pass after pass."""

    def __init__(self, vectors: int) -> None:
        self.vectors = vectors
        self.tensors: dict[str, Tensor] = {}

    def take(self, name: str, gradients: Tensor, places: Sequence[int]) -> None:
        if name not in self.tensors:
            self.tensors[name] = gradients.new_zeros(self.vectors, *gradients.shape[1:])
        self.tensors[name][list(places)] = gradients


@dataclass(frozen=True, slots=True)
class Sums:
    """What a pass over a split gathered, by parameter name, in the wider of float32 and the parameter's dtype.

    `examples` and `tokens` (targets) count the split once, however often it was passed over.
    """

    tensors: dict[str, Tensor]
    examples: int
    tokens: int


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
    gather: Callable[[int], Gather],
    labels: Labels,
    *,
    passes: int = 1,
    seed: int | None = None,
    windows: int = BATCH_WINDOWS,
    title: str = "",
) -> Sums:
    """Passes over a split at the current weights, dropout off; the model's gradients are left as they were.

    `gather(vectors)` makes what keeps the gradients, of so many vectors (examples times passes). `passes` repeats
    random label sources with fresh draws. Raises `InputError` for a layer without per-example gradients, and for
    `exact` labels where the vocabulary makes them absurd.
    """
    if labels == "exact" and (vocabulary := problem.model.config.get_text_config().vocab_size) > MOST_EXACT:
        raise InputError(
            f"labels exact: a backward pass for each of {vocabulary:,} vocabulary entries at every place of a row is "
            f"for models of at most {MOST_EXACT:,}. Use labels: noise, which has the same mean."
        )
    seed = problem.seed if seed is None else seed
    seeds = [mixed(seed, number) for number in range(passes)]
    title = title or f"gradients of {split.name} rows"
    vectors = passes * len(split.rows)
    while (gathered := _walked(problem, split, gather(vectors), labels, seeds, windows, title)) is None:
        pass  # memory did not hold a piece, and what hooks had handed over of it cannot be taken back: all over again
    distributed.total_(gathered.tensors)
    return Sums(gathered.tensors, len(split.rows), sum(window.targets for window in split.windows))


def _walked(
    problem: Problem, split: Split, gathered: Gather, labels: Labels, seeds: Sequence[int], windows: int, title: str
) -> Gather | None:
    """What passes with these seeds gather; None where memory did not hold a piece, which is smaller the next time."""
    pieces = row_pieces(split, windows, problem.portions.tokens)
    places: list[int] = []  # of the vectors of the piece at hand

    def take(name: str, gradients: Tensor, rows: slice) -> None:
        gathered.take(name, gradients, places[rows])

    with capturing(problem.model, problem.movable, take) as capture, bar(title, len(seeds) * len(pieces)) as report:
        for done, ((number, seed), piece) in enumerate(product(enumerate(seeds), pieces), start=1):
            places[:] = [number * len(split.rows) + place for place in piece.places]
            if not problem.portions.fits(piece.batch, lambda _: _walk(problem, capture, piece, labels, seed)):  # noqa: B023
                return None
            report(done)
    return gathered


def _walk(problem: Problem, capture: Capture, piece: Piece, labels: Labels, seed: int) -> None:
    """One forward pass and its backward pass (for `exact`, one of each for every place and vocabulary entry)."""
    batch = piece.batch.to(problem.runtime.device)
    keys = keys_of(piece.batch)
    steps = exact_steps(problem, piece) if labels == "exact" else iter([(torch.empty(0), 0)])
    for chosen, entry in steps:
        capture.begin(piece.local, batch.ids.shape[1], piece.unfinished)
        with problem.runtime.autocast():
            logits = target_logits(problem.model, batch)
        with torch.no_grad():
            if labels == "exact":
                made = exact_cotangent(logits, chosen, entry)
            else:
                made = cotangent(logits.detach(), batch, labels, seed, keys)
        capture.backward(logits, made)


def keys_of(batch: Batch) -> list[tuple[int, int]]:
    """Each window's key for chance and how many targets it has, see `keyed_noise`."""
    return list(zip(batch.windows.tolist(), batch.counted.sum(dim=1).tolist(), strict=True))


def cotangent(logits: Tensor, batch: Batch, labels: Labels, seed: int, keys: list[tuple[int, int]]) -> Tensor:
    """What is back-propagated from the logits [N, V] by a label source other than `exact`; overwrites them."""
    if labels == "data":
        return turn_into_label_cotangent(logits, target_ids(batch), keys)
    if labels == "sampled":
        return turn_into_label_cotangent(logits, sampled_labels(logits, seed, keys), keys)
    return turn_into_noise_cotangent(logits, seed, keys)


def exact_steps(problem: Problem, piece: Piece) -> Iterator[tuple[Tensor, int]]:
    """The k-th target of every row, and each entry of the vocabulary, in turn."""
    assert not piece.unfinished, "exact labels are for rows that fit one batch"
    order = piece.local[piece.batch.counted.nonzero()[:, 0]]
    seen = torch.zeros(len(piece.places), dtype=torch.long)
    ranks = torch.empty(len(order), dtype=torch.long)
    for target, row in enumerate(order.tolist()):
        ranks[target] = seen[row]
        seen[row] += 1
    for rank in range(int(seen.max())):
        for entry in range(problem.model.config.get_text_config().vocab_size):
            yield (ranks == rank).to(problem.runtime.device), entry
