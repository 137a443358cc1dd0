"""What is seen of rows under one treatment of a model, and whether two treated models show the same: arithmetic.

Two figures, row by row. `loss`: mean over the row's targets, nats. `known`: whether, or how often, what is to be
forgotten is given back, 0 to 1. nan: not taken, or not asked.

A difference has a 90 % interval, so that lying within a margin is a test of equivalence at 5 % on each side (TOST,
Schuirmann 1987). One side alone is asked for here: that the rows are *no better known* than the reference knows them;
being known less is judged on the model as it was written.

- Paired, row by row, where both models were asked the same rows: Student's t for losses. A `known` gets z^2 rows
  more, half at each end of the scale (as `scoring.band` has it): twelve misses beside twelve misses prove little.
- Two groups, such as forget and never-seen rows of one model: of each kind of row by itself, weighted by how many
  rows of the kind are to be forgotten; Welch's degrees of freedom for losses, z^2 rows more in each group for `known`.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import norm, t

from expunge.scoring.intervals import Floats

Figure = Literal["loss", "known"]
FIGURES: tuple[Figure, ...] = ("loss", "known")
UPPER = 0.95  # of a 90 % interval
Z = float(norm.ppf(UPPER))


@dataclass(frozen=True, slots=True)
class Seen:
    """n rows of one set: their kinds ("document", "answer") and both figures."""

    kinds: tuple[str, ...]
    loss: Floats
    known: Floats

    def figure(self, name: Figure) -> Floats:
        return self.loss if name == "loss" else self.known

    def at(self, places: Sequence[int], loss: Floats, known: Floats) -> "Seen":
        """The same with other figures at some places."""
        found = replace(self, loss=self.loss.copy(), known=self.known.copy())
        found.loss[list(places)], found.known[list(places)] = loss, known
        return found


def nothing(kinds: Sequence[str]) -> Seen:
    """Rows of which nothing was seen."""
    return Seen(tuple(kinds), np.full(len(kinds), np.nan), np.full(len(kinds), np.nan))


def averaged(parts: Sequence[Seen], shares: Sequence[float] | None = None) -> Seen:
    """Of the same rows, the mean of what was seen of each; nan where no part has seen anything. `shares`: what each
    part counts for."""
    found, weights = [], np.ones(len(parts)) if shares is None else np.asarray(shares)
    for figure in FIGURES:
        values = np.stack([part.figure(figure) for part in parts])
        seen = np.where(np.isnan(values), 0.0, weights[:, None])
        sums, counts = (seen * np.where(np.isnan(values), 0.0, values)).sum(axis=0), seen.sum(axis=0)
        found.append(np.where(counts > 0, sums / np.where(counts > 0, counts, 1), np.nan))
    return Seen(parts[0].kinds, *found)


@dataclass(frozen=True, slots=True)
class Interval:
    """A difference with its 90 % interval, and the rows to be forgotten that are behind it."""

    value: float
    low: float
    high: float
    count: int


def paired(mine: Seen, other: Seen, figure: Figure) -> Interval | None:
    """Mine minus other, of the same rows; None where fewer than two have the figure in both."""
    differences = mine.figure(figure) - other.figure(figure)
    differences = differences[~np.isnan(differences)]
    n = len(differences)
    if n < 2:
        return None
    value, squares = float(differences.mean()), float(((differences - differences.mean()) ** 2).sum())
    if figure == "known":
        centre, half = n * value / (n + Z * Z), Z * math.sqrt(squares + Z * Z) / (n + Z * Z)
    else:
        centre, half = value, float(t.ppf(UPPER, n - 1)) * math.sqrt(squares / (n - 1) / n)
    return Interval(value, centre - half, centre + half, n)


def apart(mine: Seen, other: Seen, figure: Figure) -> Interval | None:
    """Mine minus other, of two groups of rows; None where no kind has two rows in both.

    Kinds without are left out, and `count` is of the rows of the others.
    """
    pairs = [(_of_kind(mine, figure, kind), _of_kind(other, figure, kind)) for kind in ("document", "answer")]
    pairs = [(a, b) for a, b in pairs if len(a) > 1 and len(b) > 1]
    n = sum(len(a) for a, _ in pairs)
    if not n:
        return None
    value = centre = variance = doubt = 0.0
    for a, b in pairs:
        weight = len(a) / n
        value += weight * float(a.mean() - b.mean())
        for sign, group in ((1, a), (-1, b)):
            middle, square = _shrunk(group) if figure == "known" else _plain(group)
            centre += sign * weight * middle
            variance += weight**2 * square
            doubt += (weight**2 * square) ** 2 / (len(group) - 1)
    freedom = variance**2 / doubt if doubt else math.inf
    half = (Z if figure == "known" else float(t.ppf(UPPER, freedom))) * math.sqrt(variance)
    return Interval(value, centre - half, centre + half, n)


def _of_kind(seen: Seen, figure: Figure, kind: str) -> Floats:
    values = seen.figure(figure)[[other == kind for other in seen.kinds]]
    return values[~np.isnan(values)]


def _plain(group: Floats) -> tuple[float, float]:
    """Mean, and the square of its standard error."""
    return float(group.mean()), float(group.var(ddof=1) / len(group))


def _shrunk(group: Floats) -> tuple[float, float]:
    """The same with z^2 rows more, half of them 0 and half 1."""
    n, square = len(group), Z * Z
    around = float(((group - group.mean()) ** 2).sum())
    return (float(group.sum()) + square / 2) / (n + square), (around + square / 4) / (n + square) ** 2
