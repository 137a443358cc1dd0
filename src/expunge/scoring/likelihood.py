"""Likelihood attack: can somebody who has retrained models tell an unlearned model's forget rows from theirs?

Per row, as Carlini et al. 2022 (2112.03570, section VI, the offline form with one variance for all rows); for
unlearning RULI (Naderloui et al. 2025, 2506.13009), whose two worlds these are: the row was removed, or never seen.

    z_i = (x_i - m_i) / s      how far a row's loss lies below what models cost it that never saw it

m_i: the row's mean loss under retrained models; s: the standard deviation of a row's loss between them, pooled over
rows, `LEAST_SPREAD` at least. Each retrained model is left out of m in turn, and its own z stand for rows that were
never seen, so that both sides are judged by models that know neither.

Departures: RULI trains many models that unlearned the row as well, and takes the ratio of both likelihoods. Losses, not
logits of the probability. Two retrained models are needed, and few leave m and s uncertain, which hides small traces.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from expunge.scoring.intervals import Floats, Score, area_draws
from expunge.scoring.low_rates import RATE, true_positives

LEAST_SPREAD = 0.05  # nats per token


@dataclass(frozen=True, slots=True)
class Told:
    """AUC (0.5: the attack guesses) and the true positive rate at 1 % false positives (0.01: it guesses)."""

    area: Score
    rate: Score


def told_apart(losses: Floats, twins: Floats) -> Told | None:
    """Of one model's losses [n], beside those of retrained models [K, n]; None with fewer than two of them, without
    rows, and where a loss is not finite."""
    if len(twins) < 2 or not len(losses) or not np.isfinite([losses, *twins]).all():
        return None
    spread = max(LEAST_SPREAD, float(np.sqrt(twins.var(axis=0, ddof=1).mean())))
    areas, rates = [], []
    for place, twin in enumerate(twins):
        never = np.delete(twins, place, axis=0).mean(axis=0)
        mine, theirs = ((one - never) / spread for one in (losses, twin))
        draws, rate = area_draws([(mine, theirs)]), true_positives([(mine, theirs)], RATE)
        assert draws is not None and rate is not None  # there are rows, and all are finite
        areas.append(draws.score())
        rates.append(rate)
    return Told(_mean(areas), _mean(rates))


def _mean(scores: Sequence[Score]) -> Score:
    """The mean value with the mean interval: the rows are the same each time, so it does not get narrower."""
    ends = [(one.value, one.low, one.high) for one in scores if one.low is not None and one.high is not None]
    value, low, high = np.array(ends, dtype=np.float64).mean(axis=0)
    return Score(float(value), float(low), float(high), scores[0].count)
