"""Which rows a restoration goes by: of the rows to keep those that moved farthest, and some that nobody trained on.

What a step does to the rows to keep is uneven: a few that lie near to those to forget carry most of the KL. Each is to
be kept as it was, so more are looked at, forward alone, than go backward, and those with the largest KL do. Rows that
the model never saw stand for text at large: of these a few are drawn anew each time, since the farthest of them, again
and again, would be learned in place of it.

`State.caches["looked"]` holds, for each iteration, a `Looked`.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from expunge.gradients.summed import divergence_gradient
from expunge.method import State
from expunge.problem import Problem, Split
from expunge.reference.cache import KeptDistributions, keep_each, window_divergences

SEEN = "farthest"  # in `State.carried`: for which iteration, the rows in falling order, and the share of each in the KL

Held = tuple[Split, KeptDistributions]


class Looked(NamedTuple):
    """Rows to keep, of which each restoration takes `many`, and for each restoration its never-seen rows; with the
    original's distributions."""

    known: Held
    many: int
    others: tuple[Held, ...]


class Chosen(NamedTuple):
    """Rows of one restoration, the share that those to keep among them had in the KL of all that were seen, and whether
    these were looked at now."""

    rows: tuple[Held, ...]
    share: float
    fresh: bool

    def gradient(self, problem: Problem) -> dict[str, Tensor]:
        """Of KL(original, current), the mean over their tokens, in nats per token."""
        return divergence_gradient(problem, self.rows)


def splits_of(drawn: Sequence[tuple[Split, list[Split]]]) -> list[Split]:
    """Of each iteration, what it looks at and what each of its restorations has beside that."""
    return [split for known, others in drawn for split in (known, *others)]


def prepared(problem: Problem, drawn: Sequence[tuple[Split, list[Split]]], many: int) -> list[Looked]:
    """The same with what the original makes of it."""
    splits = splits_of(drawn)
    held = zip(splits, keep_each(problem, splits), strict=True)
    return [Looked(next(held), many, tuple(next(held) for _ in others)) for _, others in drawn]


def choose(problem: Problem, state: State, place: int, number: int) -> Chosen:
    """Rows for the 0-based `number`-th restoration of the iteration `place`: the first takes those with the largest KL,
    summed over their tokens, the second those after them, and so on as long as there are as many.

    Rows are looked at once, at the weights before the first of these restorations; a run that goes on after an
    interruption goes by what was seen then. Places beyond the last iteration begin again at the draws of the first.
    """
    every: list[Looked] = state.caches["looked"]
    looked = every[place % len(every)]
    others = looked.others[number : number + 1]
    (split, kept), many = looked.known, looked.many
    if len(split) <= many:
        return Chosen(((split, kept), *others) if len(split) else others, 1.0, False)
    if fresh := state.carried.get(SEEN, (None,))[0] != place:
        moved = window_divergences(problem, split, kept).kl
        owners = torch.tensor([window.row for window in split.windows])
        by_row = torch.zeros(len(split), dtype=moved.dtype).index_add(0, owners, moved).clamp(min=0)
        order = by_row.argsort(descending=True, stable=True)
        shares = by_row[order] / by_row.sum().clamp(min=torch.finfo(by_row.dtype).tiny)
        state.carried[SEEN] = (place, order.tolist(), shares.tolist())
    _, order, shares = state.carried[SEEN]
    begin = many * (number % (len(order) // many))
    far = set(order[begin : begin + many])
    windows = [index for index, window in enumerate(split.windows) if window.row in far]
    own = split.of(sorted(far), split.name), kept.at(windows)
    return Chosen((own, *others), sum(shares[begin : begin + many]), fresh)
