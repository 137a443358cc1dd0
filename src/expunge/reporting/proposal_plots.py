"""Drawings of proposed steps: predicted beside measured changes, and what was used of the retain budget.

As in `plots`: numbers and fixed words only.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from expunge.reporting.plots import FAINT, INK, LOOK, STYLE, Plot, plain_frame, svg_element
from expunge.reporting.proposals import Change, Proposed, signed

Floats = NDArray[np.float64]
MOST_TICKS = 8
PREDICTED: Mapping[str, Any] = {"mfc": "white", "ls": (0, (2, 1.5)), "mew": 1.6}
BUDGET: Mapping[str, Any] = {"color": INK, "ls": (0, (5, 3)), "lw": 1.6}
REFUSED: Mapping[str, Any] = {"color": FAINT, "marker": "x", "ls": "none", "ms": 7, "mew": 1.8}
NOTE = (
    "Filled: measured. Hollow: what gradient and curvature predicted. The dashed line is the budget for all steps so "
    "far, counted from the original."
)
WITHOUT_BUDGET = "Filled: measured. Hollow: what gradient and curvature predicted."
CROSSES = " A cross: refused, the weights stayed."


def changes(proposed: Sequence[Proposed]) -> Plot | None:
    """Changes of forget and retain loss by each step, and the budget used so far. None where no step was taken."""
    if not any(one.taken for one in proposed):
        return None
    rise = proposed[0].unit == "loss"
    title = "Rise of retain loss so far" if rise else "Retain KL so far"
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(9.6, 3.3), layout="constrained")
        left, middle, right = figure.subplots(1, 3)
        _draw(left, "Change of forget loss", "forget", proposed, [one.forget for one in proposed])
        _draw(middle, "Change of retain loss", "retain", proposed, [one.retain for one in proposed])
        reached = [Change(one.reached, None if rise else one.retain_kl.predicted) for one in proposed]
        _draw(right, title, "retain", proposed, reached, budgets=True)
        left.set_ylabel("Nats per token")
        _legend(figure, proposed)
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
        axes.plot(at, predicted, ms=8, lw=1.2, **{**LOOK[look], **PREDICTED})
    axes.plot(at, measured, ms=5, lw=1.8, **LOOK[look])
    limits = _values([one.budget for one in proposed]) if budgets else _values([])
    if np.isfinite(limits).any():
        edges = np.repeat(limits, 2)  # a level for each proposal, drawn half a place to either side
        axes.plot(np.repeat(at, 2) + np.tile([-0.4, 0.4], at.size), edges, **BUDGET)
    if refused := [one.place for one in proposed if not one.taken]:
        axes.plot(refused, [0.06] * len(refused), **REFUSED, transform=axes.get_xaxis_transform(), zorder=4)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("Proposal")
    axes.set_xlim(0.5, len(proposed) + 0.5)
    axes.margins(y=0.14)
    axes.set_xticks(at[:: -(-at.size // MOST_TICKS)])
    axes.yaxis.set_tick_params(labelcolor=FAINT)
    plain_frame(axes, "y")


def _legend(figure: Figure, proposed: Sequence[Proposed]) -> None:
    """One for all panels, whose colours differ and whose shapes mean the same."""
    shapes: dict[str, Mapping[str, Any]] = {"measured": {"marker": "o", "color": INK, "ms": 5}}
    changes = [change for one in proposed for change in (one.forget, one.retain, one.retain_kl)]
    if any(change.predicted is not None for change in changes):
        shapes["predicted"] = {"marker": "o", "color": INK, "ms": 8, **PREDICTED}
    if any(one.budget is not None for one in proposed):
        shapes["budget"] = BUDGET
    if not all(one.taken for one in proposed):
        shapes["refused"] = REFUSED
    handles = [Line2D([], [], label=word, **look) for word, look in shapes.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9.5)


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
