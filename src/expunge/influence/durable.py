"""Half of the forget rows relearned on a copy of the weights: where what comes back of the other half is taken away.

Rows that were put away together share directions along which they went, so who relearns some of them brings back much
of the others. A *durable round* (ours; docs/decisions.md has the trials) deals the forget rows into halves, relearns
one of them by a few steps, and takes needs and gradients of the *other* half's margins there; then the same with the
halves exchanged. These stand as further constraints beside those at the present weights in one dual solve: the smallest
step that leaves rows where they are to be now and takes them part of the way where they would come back to.

    joint K = J C^-1 J' with rows (i, here) and (i, where the half without i was relearned), delta = need of the first,
    `SHARE` of the need of the second

The deal is by hash and round, so that each round sees other halves.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.curvature import Whitening
from expunge.data.batches import Batch, Stream
from expunge.data.rows import Row
from expunge.gradients.cotangents import mixed
from expunge.gradients.summed import Terms, gradients
from expunge.influence.dual import RowPairs
from expunge.influence.margin_pairs import margin_pairs
from expunge.influence.needs import Tokens, needs
from expunge.model.losses import target_nll, window_means
from expunge.optim.adamw import adamw
from expunge.problem import Problem, Split

SHARE = 0.5  # of their need, what rows fall by where the other half was relearned


@dataclass(frozen=True, slots=True, kw_only=True)
class Relearning:
    """Steps of AdamW without decay, its rate, and windows a step (all our choice)."""

    steps: int = 5
    rate: float = 3e-4
    windows: int = 16

    def passes(self, windows: int) -> float:
        """Windows forward and backward, for relearning either half of so many."""
        halves = (windows - windows // 2, windows // 2)
        return float(self.steps * sum(min(self.windows, half) for half in halves))


@dataclass(frozen=True, slots=True)
class Exchange:
    """Places of the rows that are relearned, and of the others."""

    relearned: list[int]
    others: list[int]


def exchanges(rows: Sequence[Row], number: int) -> tuple[Exchange, Exchange]:
    """The two halves of a round, each relearned once; documents and answers are dealt apart."""
    dealt: tuple[list[int], list[int]] = ([], [])
    for kind in ("document", "answer"):
        own = [place for place, row in enumerate(rows) if row.kind == kind]
        own.sort(key=lambda place: rows[place].digest(f"durable round {number}"))
        for place in own:
            min(dealt, key=len).append(place)
    one, other = sorted(dealt[0]), sorted(dealt[1])
    return Exchange(one, other), Exchange(other, one)


@dataclass(frozen=True, slots=True)
class Constraints:
    """Pairs of the rows here, then of either half where the other was relearned; deltas of all; and the mean loss of
    the rows there, in nats per token."""

    pairs: RowPairs
    deltas: Tensor
    came_back: float


def constraints(
    problem: Problem,
    pairs: RowPairs,
    tokens: Tokens,
    aims: Tensor,
    whitening: Mapping[str, Whitening],
    number: int,
    how: Relearning,
) -> Constraints:
    """Of a round, for the dual solve. `pairs` and `tokens` are of the forget rows here, and of any held rows after
    them; `aims` [n] their targets. A row whose loss is beyond its target there needs nothing."""
    forget = problem.splits["forget"]
    deltas, came_back = [tokens.weighted(needs(tokens, aims))], 0.0
    for exchange in exchanges(forget.rows, number):
        half, others = forget.of(exchange.relearned, "relearned half"), forget.of(exchange.others, "other half")
        with relearned(problem, half, how, mixed(problem.seed, number)):
            there, own = margin_pairs(problem, others, tokens.of(exchange.others), whitening)
        deltas.append(own.weighted(SHARE * needs(own, aims[exchange.others]).clamp(min=0)))
        pairs = pairs.joined(there)
        came_back += float(own.losses().sum()) / len(forget.rows)
    return Constraints(pairs, torch.cat(deltas), came_back)


@contextmanager
def relearned(problem: Problem, split: Split, how: Relearning, seed: int) -> Iterator[None]:
    """The problem's model after a few steps down the mean loss of a split's rows; bit for bit as before at the end."""
    here = problem.snapshot()
    optimiser = adamw(list(problem.movable.values()))
    for group in optimiser.param_groups:
        group["lr"] = how.rate
    stream = Stream(split.name, split.windows, seed)

    def loss(batch: Batch) -> Terms:
        value = window_means(target_nll(problem.model, batch), batch).mean()
        return Terms({}, value)

    problem.model.eval()
    try:
        for _ in range(how.steps):
            found = gradients(problem, stream.draw(how.windows), loss).by_split[""]
            for name, tensor in problem.movable.items():
                tensor.grad = found.get(name)
            problem.runtime.clip(problem.movable.values(), 1.0)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        yield
    finally:
        problem.restore(here)
