"""Targets: the loss at which each forget row should end, that of comparable text which the model never saw.

Sources, best first: the target half of the holdout under the original (*calibrated*: same kind of rows, same model);
the base model on the forget rows; counterfactual rows under the original (the prompt of one forget row with the
completion of another). The last two are *uncalibrated*: a base model is less surprised by unseen text than a model
that memorised its training rows, and a counterfactual completion was itself memorised.

From the holdout the forget rows get the *distribution* of the losses of unseen rows of the same kind and about the
same length, not their mean: each forget row takes a quantile, in the order of a difficulty known for every row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Source = Literal["holdout", "base", "counterfactual"]
Floats = NDArray[np.float64]
FEWEST_NEIGHBOURS = 12
TAIL = 0.1  # quantiles nearer to the ends are noise in few neighbours, and a row led there would stand out by itself


@dataclass(frozen=True, slots=True)
class Targets:
    """One target per forget row, in nats per token, and where they come from."""

    values: Floats
    source: Source

    @property
    def calibrated(self) -> bool:
        return self.source == "holdout"


@dataclass(frozen=True, slots=True)
class Shaped:
    """Kinds [n] and shapes [n, 2] of rows, which are known without a model."""

    kinds: Sequence[str]
    shapes: Floats

    def of_kind(self, kind: str) -> NDArray[np.intp]:
        """Indices of that kind, or of all where there are none."""
        found = np.flatnonzero([other == kind for other in self.kinds])
        return found if len(found) else np.arange(len(self.kinds))


@dataclass(frozen=True, slots=True)
class Measured:
    """Rows as this file sees them: kinds [n], shapes [n, 2] (see `data.splits.shape`), losses [n] in nats per token."""

    rows: Shaped
    losses: Floats


def comparable(forget: Shaped, unseen: Shaped) -> list[int]:
    """Indices of the unseen rows that stand in the neighbourhood of a forget row: `match` looks at no others."""
    near = [
        _nearest(shape, unseen.shapes, unseen.of_kind(kind))
        for kind, shape in zip(forget.kinds, forget.shapes, strict=True)
    ]
    return sorted(map(int, np.unique(np.concatenate(near))))


def match(forget: Measured, unseen: Measured) -> Floats:
    """Targets [n] for forget rows from the losses of unseen rows; `forget.losses` only orders the forget rows.

    For each forget row the nearest quarter (at least 12) of the unseen rows of its kind is its neighbourhood; its
    target is the quantile there that its difficulty has among the forget rows that are near it in the same way, so
    that what makes a neighbourhood hard is not counted twice. Kinds that the unseen rows lack take all unseen rows.
    """
    rows, others = forget.rows, unseen.rows
    targets = np.empty(len(rows.kinds))
    for kind in set(rows.kinds):
        members, pool = rows.of_kind(kind), others.of_kind(kind)
        for member in members:
            peers = _nearest(rows.shapes[member], rows.shapes, members)
            easier = (forget.losses[peers] < forget.losses[member]).sum()
            equal = (forget.losses[peers] == forget.losses[member]).sum()
            nearest = _nearest(rows.shapes[member], others.shapes, pool)
            quantile = np.clip((easier + 0.5 * equal) / len(peers), TAIL, 1 - TAIL)
            targets[member] = np.quantile(unseen.losses[nearest], quantile)
    return targets


def _nearest(shape: Floats, others: Floats, pool: NDArray[np.intp]) -> NDArray[np.intp]:
    count = min(len(pool), max(FEWEST_NEIGHBOURS, len(pool) // 4))
    distance = np.abs(others[pool] - shape).sum(axis=1)
    return pool[np.argsort(distance, kind="stable")[:count]]
