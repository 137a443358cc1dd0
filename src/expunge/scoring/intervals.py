"""Scores with intervals: bootstrap over rows, Wilson's interval for shares, the area under a ROC curve."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]
RESAMPLES = 2000
CONFIDENCE = 0.95
MOST_KEPT = 512  # rows of the weights that are kept: 8 MB


@dataclass(frozen=True, slots=True)
class Score:
    """A value with its 95 % interval (None where none is defined) and the number of rows behind it."""

    value: float
    low: float | None
    high: float | None
    count: int


@dataclass(frozen=True, slots=True)
class Draws:
    """A value, what it would be on each of 2,000 resamples of the rows, and the number of rows behind it."""

    value: float
    resampled: Floats
    count: int

    def score(self) -> Score:
        """The value with its percentile interval."""
        if not np.isfinite(self.value):
            return Score(float("nan"), None, None, self.count)
        if self.count < 2:
            return Score(float(self.value), None, None, self.count)  # one row says nothing of others
        low, high = np.quantile(self.resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Score(float(self.value), float(low), float(high), self.count)


def unknown(count: int) -> Draws:
    """What rows of which one is not a finite number give."""
    return Draws(float("nan"), np.full(RESAMPLES, np.nan), count)


def mean_draws(values: Floats, seed: int = 0) -> Draws | None:
    """Mean over rows; None where there are none. A value that is not finite makes all of it nan."""
    if not len(values):
        return None
    if not np.isfinite(values).all():
        return unknown(len(values))
    return Draws(float(values.mean()), bootstrap(len(values), seed) @ values / len(values), len(values))


def mean_score(values: Floats) -> Score | None:
    """Mean with a percentile bootstrap over rows (2,000 resamples, seed 0)."""
    draws = mean_draws(values)
    return draws.score() if draws else None


def area_draws(groups: Sequence[tuple[Floats, Floats]]) -> Draws | None:
    """Area under the ROC curve of telling members from others by their lower loss; ties count half.

    Pairs (member, other) are formed within a group only; resamples draw both sides anew. None where there is no pair.
    A loss that is not finite makes all of it nan: it would count as a great loss, that is as a row not recognised.
    """
    if not all(np.isfinite(losses).all() for group in groups for losses in group):
        return unknown(sum(len(members) for members, _ in groups))
    won, pairs = np.zeros(RESAMPLES + 1), np.zeros(RESAMPLES + 1)
    count = 0
    for place, (members, others) in enumerate(groups):
        if not len(members) or not len(others):
            continue
        difference = others[None, :] - members[:, None]
        wins = (difference > 0) + 0.5 * (difference == 0)
        rows = np.vstack([np.ones(len(members)), bootstrap(len(members), seed=2 * place + 1)])
        columns = np.vstack([np.ones(len(others)), bootstrap(len(others), seed=2 * place + 2)])
        won += np.einsum("bi,ij,bj->b", rows, wins, columns, optimize=True)
        pairs += rows.sum(axis=1) * columns.sum(axis=1)
        count += len(members)
    return Draws(float(won[0] / pairs[0]), won[1:] / pairs[1:], count) if pairs[0] else None


def share_score(hits: NDArray[np.bool_]) -> Score | None:
    """Share of true entries with Wilson's interval, which stays sensible at 0 and 1."""
    n = len(hits)
    if not n:
        return None
    p, z = float(hits.mean()), float(norm.ppf((1 + CONFIDENCE) / 2))
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    low, high = (0.0 if p == 0 else middle - half), (1.0 if p == 1 else middle + half)
    return Score(p, max(0.0, low), min(1.0, high), n)


def bootstrap(count: int, seed: int = 0) -> Floats:
    """Resampling weights [2000, count], not to be written to: how often each row is drawn in each resample."""
    draw = _drawn if count <= MOST_KEPT else _drawn.__wrapped__
    return draw(count, seed, RESAMPLES)


@lru_cache(maxsize=4)
def _drawn(count: int, seed: int, resamples: int) -> Floats:
    """Scores of one set ask for the same weights one after the other, and drawing them is most of their time."""
    random = np.random.default_rng(seed)
    weights = random.multinomial(count, np.full(count, 1 / count), size=resamples).astype(np.float64)
    weights.flags.writeable = False
    return weights
