"""The rows of margin Newton's system: those to forget, then those that are to stay, and where each is to go."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from expunge.config.commands import EARLIER
from expunge.data.passes import Weighed, measuring
from expunge.gradients.cotangents import mixed
from expunge.influence.amounts import Amounts
from expunge.influence.needs import Tokens, token_weights
from expunge.problem import Problem, Split
from expunge.reference import objective
from expunge.reference.cache import row_losses, target_margins
from expunge.reference.kept import drawn
from expunge.reference.wording import margins

HELD = 1 << 20  # away from the seeds that other rows are drawn by
OTHERS = ("retain", "unseen")  # whose wording says what a forget row has of its own


@dataclass(frozen=True, slots=True)
class System:
    """Rows, the margins and weights of their tokens at the original, and `aims` [rows]: the loss, in nats per token,
    that each is to have. The first `forget` rows are those to forget."""

    rows: Split
    tokens: Tokens
    aims: Tensor
    forget: int

    @property
    def mean_weight(self) -> float:
        """Of the forget rows' tokens."""
        return float(self.tokens.weights[self.tokens.rows < self.forget].mean())


def at_original(problem: Problem, kept: Split, amounts: Amounts, targets: Tensor) -> System:
    """Before anything moves. `targets` [forget rows], in nats per token.

    Beside the forget rows stand rows to keep, which are to stay where they are, and of the rows that earlier requests
    removed those that have come back farthest (they would all come back where the rest is led back to the first model).
    A row that the original knows no better than its target is not learnt.
    """
    forget = problem.splits["forget"]
    held = drawn(kept, amounts.held, mixed(problem.seed, HELD), "held")
    lowest = [targets.cpu().double(), torch.zeros(len(held), dtype=torch.float64)]
    if amounts.earlier:
        removed, theirs = _farthest_back(problem, amounts.earlier)
        held, lowest = held.joined(removed), [*lowest, theirs]
    rows = forget.joined(held)
    with problem.original() as original:
        known = target_margins(problem, original, rows)
    owners = torch.tensor([window.row for window in rows.windows for _ in range(window.targets)])
    weights, own = torch.ones_like(known), owners < len(forget.rows)
    others = [window for name in OTHERS if name in problem.splits for window in problem.splits[name].windows]
    wording = margins(forget.windows, others, len(problem.tokenizer))
    weights[own] = token_weights(known[own], problem.base_margins, wording, owners[own], len(forget.rows))
    tokens = Tokens(owners, known, weights, len(rows.rows))
    return System(rows, tokens, torch.maximum(tokens.losses(), torch.cat(lowest)), len(forget.rows))


def cost(problem: Problem, kept: Split, amounts: Amounts) -> Weighed:
    """Passes of `at_original`, of a problem without a model too."""
    beside = problem.splits["forget"].joined(drawn(kept, amounts.held, mixed(problem.seed, HELD), "held"))
    if not amounts.earlier:
        return measuring(beside.windows)
    earlier = problem.splits[EARLIER]
    beside = beside.joined(earlier.of(range(amounts.earlier), EARLIER))
    found = objective.cost(_to_find(problem, torch.zeros(len(earlier))))
    return [*measuring(beside.windows), *measuring(earlier.windows), *found.plain]


def _farthest_back(problem: Problem, most: int) -> tuple[Split, Tensor]:
    """Rows of earlier requests and the targets [rows] that they would be given now; those the most below them first,
    then those that are known best. Without rows that the model never saw each is to stay where it is."""
    earlier = problem.splits[EARLIER]
    with problem.original() as original:
        losses = row_losses(problem, original, earlier)
    targets = torch.from_numpy(objective.find_targets(_to_find(problem, losses)).values)
    order = losses.argsort(stable=True)
    places = order[(targets - losses)[order].argsort(descending=True, stable=True)][:most].sort().values
    return earlier.of(places.tolist(), EARLIER), targets[places]


def _to_find(problem: Problem, losses: Tensor) -> Problem:
    """The problem of finding targets for rows of earlier requests, whose difficulty are their losses [rows] now."""
    splits = {**problem.splits, "forget": problem.splits[EARLIER]}
    return replace(problem, splits=splits, base=losses.double().numpy())
