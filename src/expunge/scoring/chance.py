"""How many of n rows look bad by chance: arithmetic for verdicts on sets of rows.

Ranks among m comparison rows are no probabilities: the m are a sample, and all n rows are ranked among the same. How
many of n never-seen rows lie beyond a rank r of m is beta-binomial with parameters r (m + 1) and (1 - r) (m + 1) (the
count beyond an order statistic, Wilks 1941), whose upper tail is far heavier than the binomial's where m is small: of
26 rows ranked among 19, 7 lie below the lowest twentieth as often as 4 would among very many. Rows of another kind are
ranked among others, so their counts are drawn apart, and add up.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import betabinom, binom, t

from expunge.scoring.intervals import Floats

LEAST = 1e-6  # nats: losses below count as this much
FEWEST_COMPARISONS = 19  # the smallest number with which a rank of 0.05 can be seen


def beyond(among: int, rank: float) -> int:
    """Of m comparison rows and a row itself, how many places lie within a rank: the largest share up to it."""
    return int(rank * (among + 1) + 1e-9)


def most_beyond(rows: Mapping[int, int], rank: float, quantile: float) -> int:
    """The most never-seen rows that lie within a rank among their comparison rows, at a quantile. `rows`: how many rows
    are ranked, by the number of comparison rows that they are ranked among."""
    chance = np.ones(1)  # of 0, 1, ... rows within
    for among, n in rows.items():
        if places := beyond(among, rank):
            chance = np.convolve(chance, betabinom.pmf(np.arange(n + 1), n, places, among + 1 - places))
    return int(np.searchsorted(np.cumsum(chance), quantile))


def most_given(n: int, given: int, among: int, quantile: float) -> int:
    """The most of n answers that are given where of as many never-seen answers as `among` so many were, at a quantile:
    beta-binomial, with one of each kind more."""
    return int(betabinom.ppf(quantile, n, given + 1, among - given + 1))


def tail(value: float, others: Floats) -> tuple[float, float]:
    """How likely a never-seen row is to have as low a loss, and as high a one: the tails of the log-normal that the
    comparison rows are a sample of, by Student's predictive law; never less than their own share.

    Their share alone would be 0 for many rows of a retrained model too, since there are few of them.
    """
    n, logs = len(others), np.log(np.maximum(others, LEAST))
    if n < 2 or not logs.std():
        return 0.0, 0.0
    away = (np.log(max(value, LEAST)) - logs.mean()) / (logs.std(ddof=1) * np.sqrt(1 + 1 / n))
    below, above = float(t.cdf(away, n - 1)), float(t.sf(away, n - 1))
    return max(below, float((others <= value).mean())), max(above, float((others >= value).mean()))


def excess(chances: Sequence[float], n: int, level: float, quantile: float) -> tuple[int, int] | None:
    """Rows of n that seem bad, by the chance at which a never-seen row looks as bad: where at or below one of these
    chances there are more than chance makes, their count and the most that there may be. Chances count up to `level`.
    """
    found = None
    for count, chance in enumerate(sorted(chances), start=1):
        most = int(binom.ppf(quantile, n, min(chance, level))) if chance > 0 else 0
        if count > most:
            found = count, most
    return found
