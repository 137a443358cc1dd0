"""The true positive rate of a threshold that few negatives cross, with an interval that knows how few there are."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import binom, norm

from expunge.scoring.intervals import CONFIDENCE, Floats, Score

RATE = 0.01


def true_positives(groups: Sequence[tuple[Floats, Floats]], rate: float) -> Score | None:
    """Share of members whose loss is below the threshold under which `rate` of the others lie; groups are kinds.

    Value: the threshold of a kind is the k + 1st lowest loss of its n others, k = floor(rate n), so that at most k of
    them are accused; a tie accuses nobody. Interval: the threshold itself, the others' `rate` quantile, lies between
    their l-th and u-th lowest loss by the binomial distribution of how many of n lie below it, and is free where there
    is no l-th or u-th; Wilson's interval of the members below the one gives the lower end, below the other the upper.
    Each of the two steps takes half of the 5 % that may be missed. nan where a loss is; None without a pair.
    """
    groups = [(members, others) for members, others in groups if len(members) and len(others)]
    count = sum(len(members) for members, _ in groups)
    if not count:
        return None
    if not all(np.isfinite(losses).all() for group in groups for losses in group):
        return Score(float("nan"), None, None, count)
    tail = (1 - CONFIDENCE) / 4
    found = low = high = 0
    for members, others in groups:
        n, ordered = len(others), np.sort(others)
        found += int((members < ordered[int(np.floor(rate * n + 1e-9))]).sum())
        fewest, most = int(binom.ppf(tail, n, rate)), int(binom.ppf(1 - tail, n, rate)) + 1
        low += int((members < ordered[fewest - 1]).sum()) if fewest else 0
        high += int((members <= ordered[most - 1]).sum()) if most <= n else len(members)
    return Score(found / count, _wilson(low, count, tail)[0], _wilson(high, count, tail)[1], count)


def _wilson(hits: int, n: int, tail: float) -> tuple[float, float]:
    """Wilson's interval that misses `tail` at each end; exactly 0 or 1 where no or every one is a hit."""
    p, z = hits / n, float(norm.ppf(1 - tail))
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    return (0.0 if hits == 0 else middle - half), (1.0 if hits == n else middle + half)
