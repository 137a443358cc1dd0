"""Exposure: by how many bits a model narrows the guess of a secret, from the losses of candidates of its form.

Carlini et al., "The Secret Sharer", USENIX Security 2019. Losses are log-perplexities: summed over the secret's tokens,
in nats. With the space R of the secret's form:

    exact   = log2 |R| - log2 rank          (definition 3); rank = 1 + texts of R with less loss + half of the ties
    fitted  = -log2 P(loss <= own)          (section 4.3), P the skew-normal fitted to the losses of a sample of R

A secret that the model never saw has a rank uniform over R, so a mean exposure of log2 R - log2(R!) / R bits, which
nears log2 e = 1.44 as R grows; -log2 of a uniform share has the mean log2 e.

Departures. (1) Ties count half. (2) A fitted exposure is capped at log2 |R|, which no rank exceeds. (3) The fit is made
on one half of the sample and tested on the other: Kolmogorov-Smirnov's p is too high on the data that were fitted.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import gammaln, logsumexp
from scipy.stats import kstest, norm, skewnorm

from expunge.scoring.evidence import Candidates, SetEvidence
from expunge.scoring.intervals import Floats

NEVER_SEEN = float(np.log2(np.e))  # bits: the mean exposure in a space without end
REJECTED = 0.01  # our choice: a fit with a smaller p does not describe the candidates
FEWEST = 32  # our choice: candidates that a fit needs
STEPS = 4000


@dataclass(frozen=True, slots=True)
class Fit:
    """A skew-normal with its Kolmogorov-Smirnov statistic and p on candidates that it was not fitted to."""

    shape: float
    place: float
    scale: float
    statistic: float
    p: float

    @property
    def rejected(self) -> bool:
        return self.p < REJECTED


@dataclass(frozen=True, slots=True)
class Exposed:
    """One secret: exposure in bits, whether it has less loss than every candidate scored, and the fit (None: exact)."""

    bits: float
    first: bool
    fit: Fit | None


def rank(losses: Floats) -> float:
    """Rank of the first of the losses among all of them, 1 for the least; ties count half."""
    own, others = losses[0], losses[1:]
    return float(1 + (others < own).sum() + 0.5 * (others == own).sum())


def expected(count: int) -> float:
    """Mean exposure of a secret that was never seen, ranked among `count` texts: log2 R - log2(R!) / R."""
    return float(np.log2(count) - gammaln(count + 1) / (count * np.log(2)))


def fit(losses: Floats) -> Fit | None:
    """The skew-normal of greatest likelihood on the first half, tested on the second.

    The losses must be in random order. None for fewer than 32 of them, and where they do not vary.
    """
    half = len(losses) // 2
    spread = float(losses[:half].std()) if half else 0.0
    if len(losses) < FEWEST or spread <= 1e-9 * abs(float(losses[:half].mean())):
        return None
    middle = float(losses[:half].mean())
    shape, place, scale = skewnorm.fit((losses[:half] - middle) / spread)
    place, scale = middle + spread * place, spread * scale
    test = kstest(losses[half:], skewnorm(shape, place, scale).cdf)
    return Fit(float(shape), float(place), float(scale), float(test.statistic), float(test.pvalue))


def log2_below(fitted: Fit, loss: float) -> float:
    """log2 P(losses <= loss) under the fit, by a sum over log-spaced steps down from `loss`.

    In logarithms all along: in the far tail, where a memorised secret lies, differences of probabilities are nothing
    but rounding.
    """
    steps = np.geomspace(1e-9, 60.0, STEPS)
    below = (loss - fitted.place) / fitted.scale - steps
    log_density = np.log(2) + norm.logpdf(below) + norm.logcdf(fitted.shape * below)
    width = np.log(steps[1] / steps[0])
    return min(0.0, float(logsumexp(log_density + np.log(steps)) + np.log(width)) / float(np.log(2)))


def exposed(candidates: Candidates) -> Exposed | None:
    """The exact exposure where all of the space was scored, else the fitted one; None where neither can be had.

    nan bits where a loss is not finite, so that the mean over secrets is none either.
    """
    losses = candidates.losses
    if len(losses) < 2:
        return None
    if not np.isfinite(losses).all():
        return Exposed(float("nan"), False, None)
    first = bool(losses[0] < losses[1:].min())
    if candidates.exact:
        return Exposed(candidates.bits - float(np.log2(rank(losses))), first, None)
    fitted = _fit_once(losses[1:].tobytes())
    if fitted is None:
        return None
    return Exposed(min(candidates.bits, -log2_below(fitted, float(losses[0]))), first, fitted)


def of_set(rows: SetEvidence) -> dict[int, Exposed]:
    """The secrets of a set that could be measured, by row index."""
    found = {index: exposed(candidates) for index, candidates in rows.candidates.items()}
    return {index: one for index, one in found.items() if one is not None}


@lru_cache(maxsize=4096)
def _fit_once(losses: bytes) -> Fit | None:
    """Metrics and official scores ask for the same fit, which is the slow part."""
    return fit(np.frombuffer(losses))
