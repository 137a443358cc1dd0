"""How many of n rows look bad by chance: arithmetic for verdicts on sets of rows.

Ranks among m comparison rows are no probabilities: the m are a sample, and all n rows are ranked among the same. How
many of n never-seen rows lie beyond a rank r of m is beta-binomial with parameters r (m + 1) and (1 - r) (m + 1) (the
count beyond an order statistic, Wilks 1941), whose upper tail is far heavier than the binomial's where m is small: of
26 rows ranked among 19, 7 lie below the lowest twentieth as often as 4 would among very many. Rows of another kind are
ranked among others, so their counts are drawn apart, and add up.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import betabinom, binom

FEWEST_COMPARISONS = 19  # the smallest number with which a rank of 0.05 can be seen


def most_beyond(rows: Mapping[int, int], rank: float, quantile: float) -> int:
    """The most never-seen rows that lie beyond a rank among their comparison rows, at a quantile. `rows`: how many rows
    are ranked, by the number of comparison rows that they are ranked among."""
    chance = np.ones(1)  # of 0, 1, ... rows beyond
    for among, n in rows.items():
        own = betabinom.pmf(np.arange(n + 1), n, rank * (among + 1), (1 - rank) * (among + 1))
        chance = np.convolve(chance, own)
    return int(np.searchsorted(np.cumsum(chance), quantile))


def excess(chances: Sequence[float], n: int, level: float, quantile: float) -> tuple[int, int] | None:
    """Rows that seem still known, of n, by the chance at which a never-seen row looks as familiar: where at or below
    one of these chances there are more than chance makes, their count and the most that there may be.

    Chances count up to `level`; in a set of fewer than 1 / level rows any row is too many.
    """
    found = None
    for count, chance in enumerate(sorted(chances), start=1):
        most = int(binom.ppf(quantile, n, min(chance, level))) if chance > 0 and int(level * n) else 0
        if count > most:
            found = count, most
    return found
