"""How far each row's margins must fall for its loss to be at its target: arithmetic on margins, no model.

The loss of a token is softplus(-m) of its margin m = log p - log(1 - p), so where a row's loss goes when its margins
fall is known without a pass of the model. Token t of a row falls by c w_t, w its token weight; c is the row's need.

Shapes: N targets of all rows, n rows; `rows` [N] says whose each target is.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

FURTHEST = 60.0  # nats of a margin: a loss of 60 is beyond any target, and the bisection begins there
HALVINGS = 60


@dataclass(frozen=True, slots=True)
class Tokens:
    """Margins [N] of the targets of n rows, and their weights [N], at least one of each row above 0; float64."""

    rows: Tensor
    margins: Tensor
    weights: Tensor
    count: int

    def of(self, places: Sequence[int]) -> "Tokens":
        """Those of the rows at some places, in ascending order."""
        new = torch.full((self.count,), -1, dtype=torch.long)
        new[list(places)] = torch.arange(len(places))
        own = new[self.rows] >= 0
        return Tokens(new[self.rows[own]], self.margins[own], self.weights[own], len(places))

    def means(self, values: Tensor) -> Tensor:
        """The mean [n] over each row's targets."""
        return self.sums(values) / self.sums(torch.ones_like(values))

    def sums(self, values: Tensor) -> Tensor:
        """Sums [n] over each row's targets."""
        return torch.zeros(self.count, dtype=values.dtype).index_add(0, self.rows, values)

    def losses(self, needs: Tensor | None = None) -> Tensor:
        """Mean loss [n] of each row once its margins have fallen by so much (none: now), in nats per target."""
        fallen = self.margins if needs is None else self.margins - needs[self.rows] * self.weights
        return self.means(F.softplus(-fallen))

    def weighted(self, needs: Tensor) -> Tensor:
        """How far [n] the weighted margin M = sum w m / sum w falls with the needs: c sum w^2 / sum w."""
        return needs * self.sums(self.weights.square()) / self.sums(self.weights)

    def shares(self) -> Tensor:
        """w / sum w [N]: by which targets enter their row's weighted margin."""
        return self.weights / self.sums(self.weights)[self.rows]


def needs(tokens: Tokens, targets: Tensor) -> Tensor:
    """c [n] with `tokens.losses(c) = targets` [n], by bisection; the loss rises with c, and so there is one.

    Below 0 for a row that is past its target, which is to come back. At the ends of the range where no c reaches it.
    """
    low = torch.full((tokens.count,), -FURTHEST, dtype=torch.float64)
    high = -low
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        short = tokens.losses(middle) < targets
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return (low + high) / 2


def token_weights(original: Tensor, base: Tensor | None, wording: Tensor, rows: Tensor, count: int) -> Tensor:
    """w [N]: how much more the original knows a target than it would without the row, 1 for the row's most.

    Margins [N]. What it would know is the larger of the `base` model's and of what the `wording` of other rows
    foretells. With a base w is max(0, original - that); with the wording alone the same of log p, since an n-gram is
    never as sure of a token as a model that was trained on the rows it counts. Rows that gain nowhere have weights 1.
    """
    if base is None:
        gained = (F.logsigmoid(original) - F.logsigmoid(wording)).clamp(min=0)
    else:
        gained = (original - torch.maximum(base, wording)).clamp(min=0)
    most = torch.zeros(count, dtype=gained.dtype).scatter_reduce(0, rows, gained, "amax")
    return torch.where(most[rows] > 0, gained / most[rows].clamp(min=1e-12), 1.0)
