"""Drawings of proposed steps: predicted beside measured changes, and what was used of the retain budget.

As in `plots`: numbers and fixed words only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from expunge.reporting.plots import FAINT, INK, LOOK, STYLE, Plot, plain_frame, svg_element
from expunge.reporting.proposals import Change, Proposed, signed

Floats = NDArray[np.float64]
MOST_TICKS = 8
PREDICTED: Mapping[str, Any] = {"mfc": "white", "ls": (0, (2, 1.5)), "mew": 1.6}
NOTE = (
    "Filled: measured. Hollow: what gradient and curvature predicted. The dashed line is the budget, which all "
    "proposals share, counted from the original."
)
WITHOUT_BUDGET = "Filled: measured. Hollow: what gradient and curvature predicted."
CROSSES = " A cross on the axis: refused, the weights stayed."


def changes(proposed: Sequence[Proposed]) -> Plot | None:
    """Changes of forget and retain loss by each step, and the budget used so far. None where no step was taken."""
    if not any(one.taken for one in proposed):
        return None
    rise = proposed[0].unit == "loss"
    title = "Rise of retain loss so far" if rise else "Retain KL so far"
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(9.6, 3.0), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        _draw(left, "Change of forget loss", "forget", proposed, [one.forget for one in proposed])
        _draw(middle, "Change of retain loss", "retain", proposed, [one.retain for one in proposed])
        reached = [Change(one.reached, None if rise else one.retain_kl.predicted) for one in proposed]
        _draw(right, title, "retain", proposed, reached, budgets=True)
        left.set_ylabel("Nats per token")
        return Plot(svg_element(figure, "proposals"), _label(proposed), _note(proposed))


def _draw(
    axes: Axes,
    title: str,
    look: str,
    proposed: Sequence[Proposed],
    found: Sequence[Change],
    budgets: bool = False,
) -> None:
    at = np.arange(1, len(proposed) + 1)
    measured, predicted = _values([c.measured for c in found]), _values([c.predicted for c in found])
    axes.axhline(0.0, color="#9aa5b1", lw=1.0, zorder=1)
    if np.isfinite(predicted).any():
        axes.plot(at, predicted, label="predicted", ms=8, lw=1.2, **{**LOOK[look], **PREDICTED})
    axes.plot(at, measured, label="measured", ms=5, lw=1.8, **LOOK[look])
    limits = _values([one.budget for one in proposed]) if budgets else _values([])
    if np.isfinite(limits).any():
        edges = np.repeat(limits, 2)  # a level for each proposal, drawn half a place to either side
        axes.plot(np.repeat(at, 2) + np.tile([-0.4, 0.4], at.size), edges, label="budget", color=INK, ls=(0, (5, 3)))
    refused = [one.place for one in proposed if not one.taken]
    if refused:  # an empty line outside the data's coordinates would upset the layout
        axes.plot(
            refused, [0.0] * len(refused), "x", color=FAINT, ms=7, mew=1.8, clip_on=False, zorder=4,
            label="refused", transform=axes.get_xaxis_transform(),
        )  # fmt: skip
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("Proposal")
    axes.set_xlim(0.5, len(proposed) + 0.5)
    axes.margins(y=0.14)
    axes.set_xticks(at[:: -(-at.size // MOST_TICKS)])
    axes.yaxis.set_tick_params(labelcolor=FAINT)
    plain_frame(axes, "y")
    axes.legend(frameon=False, fontsize=9.5, loc="best")


def _values(found: Sequence[float | None]) -> Floats:
    return np.array([np.nan if value is None else value for value in found], dtype=np.float64)


def _label(proposed: Sequence[Proposed]) -> str:
    """Every figure of the drawing up to ten proposals; the rest stands in the table."""
    shown = "; ".join(_said(one) for one in proposed[:10])
    return f"Changes by proposed steps, in nats per token: {shown}."


def _said(one: Proposed) -> str:
    if not one.taken:
        return f"{one.place} refused"
    forget, retain = (_pair(change) for change in (one.forget, one.retain))
    budget = "" if one.budget is None else f" of {one.budget:.3f}"
    what = "rise of retain loss" if one.unit == "loss" else "retain KL"
    reached = "" if one.reached is None else f", {what} {one.reached:.3f}{budget}"
    return f"{one.place} forget {forget}, retain {retain}{reached}"


def _pair(change: Change) -> str:
    predicted = "" if change.predicted is None else f" (predicted {signed(change.predicted)})"
    return f"{signed(change.measured)}{predicted}"


def _note(proposed: Sequence[Proposed]) -> str:
    note = NOTE if any(one.budget is not None for one in proposed) else WITHOUT_BUDGET
    return note if all(one.taken for one in proposed) else note + CROSSES
