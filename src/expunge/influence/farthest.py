"""Which rows a restoration goes by: of those that were drawn for its iteration some that moved farthest, and some that
stand for all others.

What a step does to the rows to keep is uneven: a few rows that lie near to those to forget carry most of the KL. So
more rows are looked at, forward alone, than go backward (`State.caches["looked"]`, with the original's distributions).
Half of those that do are the ones with the largest KL, and count as they are; the other half are drawn from the rest,
and count for as many as there are. Their gradient is that of all that were looked at, on average over draws, and most
of it is exact (stratified sampling). By the farthest alone the others would be forgotten.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from expunge.gradients.cotangents import mixed
from expunge.gradients.summed import divergence_gradient
from expunge.method import State
from expunge.problem import Problem, Split
from expunge.reference.cache import KeptDistributions, window_divergences

SEEN = "farthest"  # in `State.carried`: for which iteration, the rows in falling order, and the share of each in the KL
OTHERS = 1 << 21  # away from the seeds that other rows are drawn by


class Stratum(NamedTuple):
    """Rows with the original's distributions on them, each of which counts for so many."""

    rows: Split
    kept: KeptDistributions
    times: float

    @property
    def tokens(self) -> float:
        """Targets that they count for."""
        return self.times * sum(window.targets for window in self.rows.windows)


class Chosen(NamedTuple):
    """The rows, the share that the farthest among them had in the KL of all that were seen, and whether these were
    looked at now."""

    strata: tuple[Stratum, ...]
    share: float
    fresh: bool

    def gradient(self, problem: Problem) -> dict[str, Tensor]:
        """Of KL(original, current), the mean over the tokens that they count for, in nats per token."""
        every, total = sum(one.tokens for one in self.strata), dict[str, Tensor]()
        for one in self.strata:
            for name, part in divergence_gradient(problem, [(one.rows, one.kept)]).items():
                part = part * (one.tokens / every)
                total[name] = total[name] + part if name in total else part
        return total


def choose(problem: Problem, state: State, place: int, number: int, many: int) -> Chosen:
    """`many` rows for the 0-based `number`-th restoration of the iteration `place`: the first takes those with the
    largest KL, summed over their tokens, as its exact half, the second those after them.

    Rows are looked at once, at the weights before the first of these restorations; a run that goes on after an
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
    if len(order) <= many:
        return Chosen((Stratum(split, kept, 1.0),), 1.0, fresh)
    exact = many - many // 2
    begin = exact * (number % max(1, len(order) // exact))
    far, rest = order[begin : begin + exact], order[:begin] + order[begin + exact :]
    chance = np.random.default_rng(mixed(problem.seed, OTHERS + 256 * place + number))
    others = chance.permutation(rest)[: many - len(far)].tolist()
    strata = [_of(split, kept, far, 1.0), *([_of(split, kept, others, len(rest) / len(others))] if others else [])]
    return Chosen(tuple(strata), sum(shares[begin : begin + exact]), fresh)


def _of(split: Split, kept: KeptDistributions, rows: Sequence[int], times: float) -> Stratum:
    chosen = set(rows)
    windows = [index for index, window in enumerate(split.windows) if window.row in chosen]
    return Stratum(split.of(sorted(chosen), split.name), kept.at(windows), times)
