"""Which rows a restoration goes by: of those that were drawn for its iteration, the ones that moved farthest.

What a step does to the rows to keep is uneven: a few rows that lie near to those to forget carry most of the KL. So
more rows are looked at, forward alone, than go backward (`State.caches["looked"]`, with the original's distributions).
"""

from typing import NamedTuple

import torch

from expunge.method import State
from expunge.problem import Problem, Split
from expunge.reference.cache import KeptDistributions, window_divergences

SEEN = "farthest"  # in `State.carried`: for which iteration, the rows in falling order, and the share of each in the KL


class Farthest(NamedTuple):
    """Rows with the original's distributions on them, the share that they had in the KL of all that were seen, and
    whether these were looked at now."""

    rows: Split
    kept: KeptDistributions
    share: float
    fresh: bool


def rows(problem: Problem, state: State, place: int, number: int, many: int) -> Farthest:
    """`many` rows for the 0-based `number`-th restoration of the iteration `place`: the first takes those with the
    largest KL, summed over their tokens, the second those after them, and so on as long as there are as many.

    They are looked at once, at the weights before the first of these restorations; a run that goes on after an
    interruption goes by what was seen then.
    """
    split, kept = state.caches["looked"][place]
    if fresh := state.carried.get(SEEN, (None,))[0] != place:
        moved = window_divergences(problem, split, kept).kl
        owners = torch.tensor([window.row for window in split.windows])
        by_row = torch.zeros(len(split), dtype=moved.dtype).index_add(0, owners, moved).clamp(min=0)
        order = by_row.argsort(descending=True, stable=True)
        shares = by_row[order] / by_row.sum().clamp(min=torch.finfo(by_row.dtype).tiny)
        state.carried[SEEN] = (place, order.tolist(), shares.tolist())
    _, order, shares = state.carried[SEEN]
    begin = many * (number % max(1, len(order) // many))
    chosen = set(order[begin : begin + many])
    windows = [index for index, window in enumerate(split.windows) if window.row in chosen]
    share = sum(shares[begin : begin + many])
    return Farthest(split.of(sorted(chosen), split.name), kept.at(windows), share, fresh)
