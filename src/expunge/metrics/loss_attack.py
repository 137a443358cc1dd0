"""Loss attack: the area under the ROC curve of telling forget rows from never-seen rows by their loss.

The plain membership attack of LUME (score = -loss, members = forget rows). 0.5: not to be told apart; near 1: the
forget rows still look familiar; near 0: they stand out by being too strange. Pairs are formed within a kind of row
only, since documents and answers differ in loss for reasons that have nothing to do with membership.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from expunge.metric import CONFIDENCE, Evidence, Score, bootstrap

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LossAttack:
    """AUC over pairs (forget row, judging row) of the same kind; the interval resamples both sides."""

    sets: ClassVar[tuple[str, ...]] = ("forget",)

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        members, others = evidence.sets[name], evidence.sets.get("judging")
        if others is None:
            return None
        value = np.zeros(len(bootstrap(1)) + 1)
        pairs = np.zeros_like(value)
        count = 0
        for place, kind in enumerate(sorted(set(members.kinds) & set(others.kinds))):
            wins = _wins(members.loss[members.of_kind(kind)], others.loss[others.of_kind(kind)])
            rows = np.vstack([np.ones(wins.shape[0]), bootstrap(wins.shape[0], seed=2 * place + 1)])
            columns = np.vstack([np.ones(wins.shape[1]), bootstrap(wins.shape[1], seed=2 * place + 2)])
            value += np.einsum("bi,ij,bj->b", rows, wins, columns, optimize=True)
            pairs += rows.sum(axis=1) * columns.sum(axis=1)
            count += wins.shape[0]
        if not pairs[0]:
            return None
        low, high = np.quantile(value[1:] / pairs[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Score(float(value[0] / pairs[0]), float(low), float(high), count)


def _wins(members: Floats, others: Floats) -> Floats:
    """[members, others]: 1 where the member's loss is lower, 0.5 for ties."""
    difference = others[None, :] - members[:, None]
    wins: Floats = (difference > 0) + 0.5 * (difference == 0)
    return wins
