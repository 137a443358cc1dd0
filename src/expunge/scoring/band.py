"""The retrained band: how far a method's scores lie from those of models retrained without the forget rows.

Two kinds of chance stand behind every score: which rows happened to be asked, and the seed. They are different, so
both enter, as squared standard errors (s_rows^2 + s_seeds^2 / seeds), with Student's quantile at the degrees of freedom
of Welch and Satterthwaite: three seeds tell little about their own spread, and resampling three values would hide that.

- Rows are asked of every model alike, so differences are taken row by row (method minus mean of the twins) before
  they are resampled: what makes a row hard cancels. The reach of the percentile bootstrap is widened by
  sqrt(n / (n - 1)) and Student's quantile (Hesterberg 2015, "What teachers should know about the bootstrap").
- Rows that are only hit or missed get z^2 rows more, half at each end of the scale (Wilson's interval for a share;
  Tango's, where no row differs, for a paired difference): twelve misses beside twelve misses are no proof of sameness.
- A score that is no mean over rows brings its own interval. Seeds share their rows, so these do not shrink with the
  seeds; a difference then adds both sides as if they were independent, which is too wide rather than too narrow.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, t

from expunge.scoring.intervals import CONFIDENCE, bootstrap

Floats = NDArray[np.float64]
Side = Literal["forget", "retain", "other"]
AS_RETRAINED, CANNOT_TELL, NOT_FINITE, DIFFERS = "as retrained", "cannot tell", "not finite", "differs"
# Towards "more forgotten" or "better kept" first.
SIDE_WORDS = {"forget": ("beyond", "short"), "retain": ("gained", "lost"), "other": (DIFFERS, DIFFERS)}
UPPER = (1 + CONFIDENCE) / 2
Z = float(norm.ppf(UPPER))
MEAN_WITHIN = 1e-4


@dataclass(frozen=True, slots=True)
class Measured:
    """One cell's score; `rows` [n] where it is the mean of row values, NaN for rows that were not asked."""

    value: float
    low: float | None = None
    high: float | None = None
    rows: Floats | None = None


@dataclass(frozen=True, slots=True)
class Pooled:
    """Mean over seeds with its 95 % interval (None where nothing defines one), the least and the most of the seeds."""

    value: float
    low: float | None
    high: float | None
    least: float
    most: float
    seeds: int

    @property
    def half_spread(self) -> float:
        return (self.most - self.least) / 2


@dataclass(frozen=True, slots=True)
class Difference:
    """Method minus twins, with its 95 % interval; `paired` where it was taken row by row."""

    value: float
    low: float | None
    high: float | None
    paired: bool


@dataclass(frozen=True, slots=True)
class Standing:
    """A word for a difference. `leaning`: where the word is *cannot tell*, the side that chance alone does not explain.

    `tolerance`: the margin and half the twins' spread. Not half their interval: fewer rows must not make it easier.
    """

    word: str
    leaning: str
    difference: Difference
    tolerance: float


@dataclass(frozen=True, slots=True)
class _Part:
    """One source of chance: its standard errors below and above the value, and their degrees of freedom."""

    below: float
    above: float
    freedom: float


def pool(cells: Sequence[Measured], scale: tuple[float, float] | None = None) -> Pooled:
    """Pools the seeds of one model; needs at least one. One seed keeps the interval it came with.

    `scale`: the least and the most that the score can be, where it has such ends; intervals stop there.
    """
    values = np.array([cell.value for cell in cells])
    value, least, most = float(values.mean()), float(values.min()), float(values.max())
    if not np.isfinite(values).all():
        return Pooled(math.nan, None, None, math.nan, math.nan, len(cells))
    if len(cells) == 1:
        return Pooled(value, cells[0].low, cells[0].high, least, most, 1)
    rows = aligned(cells)
    of_rows = _own_part(cells) if rows is None else _row_part(rows.mean(axis=0), _are_hits(rows), 0.5, 0.5)
    low, high = _interval(value, [of_rows, _seed_part(values)])
    if scale is not None and low is not None and high is not None:
        low, high = max(scale[0], low), min(scale[1], high)
    return Pooled(value, low, high, least, most, len(cells))


def band(twins: Sequence[Measured], scale: tuple[float, float] | None = None) -> Pooled:
    """Pools the retrained models. The interval is widened where that is needed to hold every one of them."""
    found = pool(twins, scale)
    if found.low is None or found.high is None:
        return found
    return Pooled(
        found.value, min(found.low, found.least), max(found.high, found.most), found.least, found.most, found.seeds
    )


def difference(
    cells: Sequence[Measured], twins: Sequence[Measured], scale: tuple[float, float] | None = None
) -> Difference:
    """Mean of the cells minus mean of the twins, row by row where all of them were asked the same rows."""
    values, others = np.array([cell.value for cell in cells]), np.array([twin.value for twin in twins])
    value = float(values.mean() - others.mean())
    if not math.isfinite(value):
        return Difference(math.nan, None, None, False)
    rows = aligned([*cells, *twins])
    if rows is not None:
        per_row = rows[: len(cells)].mean(axis=0) - rows[len(cells) :].mean(axis=0)
        parts = [_row_part(per_row, _are_hits(rows), 0.0, 1.0)]
    else:
        own, other = _own_part(cells), _own_part(twins)
        parts = [own, _Part(other.above, other.below, other.freedom) if other is not None else None]
    low, high = _interval(value, [*parts, _seed_part(values), _seed_part(others)])
    if scale is not None and low is not None and high is not None:
        width = scale[1] - scale[0]  # not the room beside the twins' mean: that is no more than an estimate
        low, high = max(-width, low), min(width, high)
    return Difference(value, low, high, rows is not None)


def stand(found: Difference, margin: float, twins: Pooled, side: Side, better: float) -> Standing:
    """The word. `better` is the sign of the way to more forgotten or better kept; 0 where nobody knows it.

    *as retrained*: the whole interval lies within the tolerance. A word for outside: the whole interval lies outside,
    on one side. Anything between is *cannot tell*.
    """
    tolerance = margin + twins.half_spread
    if not math.isfinite(found.value):
        return Standing(NOT_FINITE, "", found, tolerance)
    if found.low is None or found.high is None:
        return Standing(CANNOT_TELL, "", found, tolerance)
    upward, downward = SIDE_WORDS[side] if better > 0 else SIDE_WORDS[side][::-1] if better < 0 else (DIFFERS, DIFFERS)
    if -tolerance <= found.low and found.high <= tolerance:
        return Standing(AS_RETRAINED, "", found, tolerance)
    if found.low > tolerance or found.high < -tolerance:
        return Standing(upward if found.value > 0 else downward, "", found, tolerance)
    leaning = upward if found.low > 0 else downward if found.high < 0 else ""
    return Standing(CANNOT_TELL, leaning, found, tolerance)


def aligned(cells: Sequence[Measured]) -> Floats | None:
    """Rows of all cells [cells, n], without rows that none was asked; None where the cells' rows do not match.

    Rows count only where the score is their mean: else a difference of rows would not be the difference of scores.
    """
    found = [cell.rows for cell in cells if cell.rows is not None]
    if len(found) < len(cells) or len({len(rows) for rows in found}) != 1:
        return None
    rows = np.stack(found)
    asked = np.isfinite(rows)
    if (asked != asked[0]).any() or not asked.any():
        return None
    rows = rows[:, asked[0]]
    means, values = rows.mean(axis=1), np.array([cell.value for cell in cells])
    close = np.abs(means - values) <= MEAN_WITHIN * np.maximum(1.0, np.abs(values))
    return rows if close.all() else None


def _are_hits(rows: Floats) -> bool:
    return bool(((rows == 0) | (rows == 1)).all())


def _row_part(rows: Floats, hits: bool, middle: float, reach: float) -> _Part | None:
    """Chance of the mean of rows [n]. `middle`, `reach`: the scale of hits; 0.5 and 0.5, or 0 and 1 for differences."""
    n, value = len(rows), float(rows.mean())
    if hits:
        square = Z * Z
        centre = (n * value + square * middle) / (n + square)
        half = Z * math.sqrt(float(((rows - value) ** 2).sum()) + square * reach**2) / (n + square)
        return _Part((value - centre + half) / Z, (centre + half - value) / Z, math.inf)
    if n < 2:
        return None
    low, high = np.quantile(_weights(n) @ rows / n, [1 - UPPER, UPPER])
    wider = math.sqrt(n / (n - 1)) / Z
    return _Part(max(0.0, value - float(low)) * wider, max(0.0, float(high) - value) * wider, n - 1)


def _own_part(cells: Sequence[Measured]) -> _Part | None:
    """From the cells' own intervals: their mean reach, not less, since seeds share their rows."""
    reaches = [
        (cell.value - cell.low, cell.high - cell.value)
        for cell in cells
        if cell.low is not None and cell.high is not None
    ]
    if len(reaches) < len(cells):
        return None
    below, above = np.array(reaches).mean(axis=0) / Z
    return _Part(max(0.0, float(below)), max(0.0, float(above)), math.inf)


def _seed_part(values: Floats) -> _Part:
    """One seed shows no spread; the pages say so."""
    if len(values) == 1:
        return _Part(0.0, 0.0, math.inf)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return _Part(error, error, len(values) - 1)


def _interval(value: float, parts: Sequence[_Part | None]) -> tuple[float | None, float | None]:
    """None where a part is unknown: an interval that leaves out a source of chance would look too sure."""
    known = [part for part in parts if part is not None]
    if len(known) < len(parts):
        return None, None
    below = _reach([(part.below, part.freedom) for part in known])
    above = _reach([(part.above, part.freedom) for part in known])
    return value - below, value + above


def _reach(errors: Sequence[tuple[float, float]]) -> float:
    total = sum(error**2 for error, _ in errors)
    doubt = sum(error**4 / freedom for error, freedom in errors)
    if not total:
        return 0.0
    quantile = float(t.ppf(UPPER, total**2 / doubt)) if doubt else Z
    return quantile * math.sqrt(total)


@lru_cache(maxsize=32)
def _weights(count: int) -> Floats:
    return bootstrap(count)
