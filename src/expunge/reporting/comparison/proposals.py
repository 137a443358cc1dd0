"""One line for each method that proposes steps or goes by Sophia: how far its steps went, and how far was forecast.

From the cells' `proposals` and `sophia`. Changes are summed over the steps of a cell and averaged over cells; figures
of single steps are medians over all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from expunge.reporting import clipping
from expunge.reporting.comparison.standings import Model, Standings
from expunge.reporting.forecasts import total
from expunge.reporting.proposals import Change, Proposed, read, signed, significant
from expunge.reporting.provenance import Table
from expunge.reporting.words import NOT_MEASURED

TITLE = "Proposed steps and their forecasts"
NONE = "none"
HEADERS = (
    *("Model", "Steps taken", "Step", "Damping", "Mean curvature", "Forget loss", "Retain loss", "Retain KL"),
    *("Cosine", "In the metric", "Measurements", "Sophia within 10 to 50 %"),
)
Steps = Sequence[Proposed]


def table(found: Standings) -> Table | None:
    """None where no method of the comparison proposed a step or was checked for clipping."""
    lines = tuple(_line(model) for model in found.methods if any(_has(cell) for cell in model.done))
    return Table(TITLE, HEADERS, lines, wide=True) if lines else None


def _has(cell: Mapping[str, Any]) -> bool:
    return bool(cell["proposals"] or cell["sophia"])


def _line(model: Model) -> tuple[str, ...]:
    cells = [read(cell["proposals"]) for cell in model.done]
    steps = [one for cell in cells for one in cell]
    return (
        model.label,
        f"{sum(one.taken for one in steps)} of {len(steps)}" if steps else NONE,
        _median(steps, lambda one: one.step),
        _median(steps, lambda one: one.damping),
        _median(steps, lambda one: one.mean_curvature),
        *(_changed(cells, of) for of in (_forget, _retain, _retain_kl)),
        _median(steps, lambda one: one.cosine),
        _median(steps, lambda one: one.cosine_in_metric),
        f"{sum(one.measurements or 0 for one in steps):,.0f}" if steps else NONE,
        _unclipped(model),
    )


def _forget(one: Proposed) -> Change:
    return one.forget


def _retain(one: Proposed) -> Change:
    return one.retain


def _retain_kl(one: Proposed) -> Change:
    return one.retain_kl


def _changed(cells: Sequence[Steps], of: Callable[[Proposed], Change]) -> str:
    """The mean over the cells that took a step; the forecast where each of them has one."""
    sums = [change for cell in cells if (change := total(cell, of)) is not None]
    if not sums:
        return NOT_MEASURED if any(one.taken for cell in cells for one in cell) else NONE
    measured = signed(fmean(change.measured for change in sums if change.measured is not None))
    predicted = [change.predicted for change in sums if change.predicted is not None]
    return f"{measured} (predicted {signed(fmean(predicted))})" if len(predicted) == len(sums) else measured


def _median(steps: Steps, of: Callable[[Proposed], float | None]) -> str:
    values = [value for one in steps if (value := of(one)) is not None]
    return significant(median(values)) if values else NONE


def _unclipped(model: Model) -> str:
    """Of the checks of all cells: how many lie in the band, and the median share."""
    shares = [check.share for cell in model.done for check in clipping.read(cell["sophia"])]
    if not shares:
        return NONE
    return f"{clipping.inside(shares)} of {len(shares)} checks, median {clipping.percent(median(shares))}"
