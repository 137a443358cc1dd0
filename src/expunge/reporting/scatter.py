"""Forgetting against keeping: one small mark per cell, one large per model with intervals, the retrained band shaded.

Labels of methods and columns are the only strings of the content that enter the drawing: shortened, their control
characters named, never read as mathematics, and escaped by the writer of the SVG.
"""

import itertools
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle

from expunge.files.visible import visible
from expunge.reporting.comparison_tables import name_of
from expunge.reporting.content import Cell, Column
from expunge.reporting.finding import Official, known
from expunge.reporting.plots import BAND, COLOURS, INK, STYLE, Plot, plain_frame, svg_element
from expunge.reporting.standings import ORIGINAL, RETRAINED, Model, Standings
from expunge.reporting.words import number
from expunge.scoring.band import Pooled

LONGEST_LABEL = 34
# Okabe and Ito's colours, which stay apart for the colour-blind; yellow is left out on white, grey is the original's.
METHOD_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#4b3b8f")
METHOD_MARKERS = ("D", "s", "v", "P", "X", "<", ">", "p", "h", "*", "d")
LOOK = {ORIGINAL: (COLOURS["original"], "o"), RETRAINED: (COLOURS["retrained"], "^")}


@dataclass(frozen=True, slots=True)
class Mark:
    """One model in both columns: where it lies with its intervals, and its cells."""

    model: Model
    x: Pooled
    y: Pooled
    points: tuple[tuple[float, float], ...]
    colour: str
    marker: str


def draw(found: Standings, x: Column | None = None, y: Column | None = None) -> Plot | None:
    """`x`, `y`: by default the first pooled column of the forget and of the retain side; None where one is lacking."""
    x, y = x or _first(found, "forget"), y or _first(found, "retain")
    if x is None or y is None:
        return None
    marks, lost = _marks(found, x, y)
    if not marks:
        return None
    with style.context(["default", STYLE]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph")  # of the font that measures; the page has its own
        figure = Figure(figsize=(9.6, max(5.0, 1.6 + 0.27 * len(marks))), layout="constrained")
        axes = figure.subplots()
        shaded = _draw_band(axes, found, x, y)
        for mark in marks:
            _draw_mark(axes, mark)
        _frame(axes, x, y)
        _legend(figure, marks, shaded)
        return Plot(svg_element(figure, "comparison"), _label(marks, x, y), _note(shaded, lost))


def standing_alone(plot: Plot) -> str:
    """The drawing as a file of its own, on white."""
    opening = '<svg xmlns="http://www.w3.org/2000/svg" font-family="sans-serif" style="background: #ffffff" '
    return '<?xml version="1.0" encoding="utf-8"?>\n' + plot.svg.replace("<svg ", opening, 1)


def _first(found: Standings, side: str) -> Column | None:
    return next((column for column in found.group("pooled") if column.side == side), None)


def _marks(found: Standings, x: Column, y: Column) -> tuple[list[Mark], int]:
    """Marks, and how many cells have no finite score in both columns."""
    marks, lost = [], 0
    looks = zip(itertools.cycle(METHOD_COLOURS), itertools.cycle(METHOD_MARKERS), strict=False)
    for model in found.models:
        colour, marker = LOOK.get(model.label) or next(looks)
        points = [_point(cell, x.key, y.key) for cell in model.cells]
        known = tuple(point for point in points if point is not None)
        lost += len(points) - len(known)
        along, up = (found.entries[model.label, column.key].pooled for column in (x, y))
        if along is not None and up is not None and math.isfinite(along.value) and math.isfinite(up.value):
            marks.append(Mark(model, along, up, known, colour, marker))
    return marks, lost


def _point(cell: Cell, x: str, y: str) -> tuple[float, float] | None:
    if cell.error:
        return None
    across, up = (known(cell.scores.get(key, Official()).value) for key in (x, y))
    if across is None or up is None or not math.isfinite(across) or not math.isfinite(up):
        return None
    return across, up


def _draw_band(axes: Axes, found: Standings, x: Column, y: Column) -> bool:
    entry = [found.entries.get((RETRAINED, column.key)) for column in (x, y)]
    bands = [each.band for each in entry if each is not None and each.band is not None]
    if len(bands) < 2:
        return False
    (left, right), (low, high) = (_ends(each) for each in bands)
    corner = Rectangle(
        (left, low), right - left, high - low, facecolor=BAND, edgecolor=COLOURS["retrained"], lw=1.1, ls=(0, (4, 2)),
        zorder=1,
    )  # fmt: skip
    axes.add_patch(corner)
    return True


def _ends(found: Pooled) -> tuple[float, float]:
    return (found.low if found.low is not None else found.least), (found.high if found.high is not None else found.most)


def _draw_mark(axes: Axes, mark: Mark) -> None:
    # the bands' edges already show the interval of the retrained models
    if mark.model.label != RETRAINED:
        axes.errorbar(
            mark.x.value, mark.y.value, xerr=_bars(mark.x), yerr=_bars(mark.y), fmt="none", ecolor=mark.colour,
            elinewidth=1.2, capsize=2.5, alpha=0.75, zorder=3,
        )  # fmt: skip
    for across, up in mark.points:
        axes.plot(across, up, mark.marker, color=mark.colour, ms=4.2, alpha=0.55, mew=0, zorder=4, clip_on=False)
    # the retrained mark is hollow and on top: methods that do well lie on it
    hollow = mark.model.label == RETRAINED
    axes.plot(
        mark.x.value, mark.y.value, mark.marker, color=mark.colour, ms=10, clip_on=False, zorder=6 if hollow else 5,
        mfc="none" if hollow else mark.colour, mec=mark.colour if hollow else "#ffffff", mew=1.8 if hollow else 0.9,
    )  # fmt: skip


def _bars(found: Pooled) -> list[list[float]] | None:
    if found.low is None or found.high is None:
        return None
    return [[max(0.0, found.value - found.low)], [max(0.0, found.high - found.value)]]


def _frame(axes: Axes, x: Column, y: Column) -> None:
    axes.set_xlabel(_short(x.label), parse_math=False)
    axes.set_ylabel(_short(y.label), parse_math=False)
    axes.margins(0.05)
    for scale, limit in ((x.range, axes.set_xlim), (y.range, axes.set_ylim)):
        if scale is not None:
            room = 0.03 * (scale[1] - scale[0])
            limit(scale[0] - room, scale[1] + room)
    plain_frame(axes, "both")


def _legend(figure: Figure, marks: Sequence[Mark], shaded: bool) -> None:
    """Outside the axes, so that it covers nothing. Texts are set afterwards: matplotlib gives labels a meaning."""
    names = [name_of(mark.model) for mark in marks]
    handles: list[Any] = [
        Line2D([], [], marker=m.marker, color=m.colour, ls="", ms=8, mew=1.6, mfc="none")
        if m.model.label == RETRAINED
        else Line2D([], [], marker=m.marker, color=m.colour, ls="", ms=8, mew=0)
        for m in marks
    ]
    if shaded:
        names.append("Retrained band")
        handles.append(Patch(facecolor=BAND, edgecolor=COLOURS["retrained"], ls=(0, (4, 2)), lw=1.1))
    numbered = [str(place) for place in range(len(names))]
    legend = figure.legend(handles, numbered, loc="outside right upper", frameon=False, fontsize=9.5, labelcolor=INK)
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_parse_math(False)
        text.set_text(_short(name))


def _short(text: str) -> str:
    line = " ".join(visible(text).split())
    return line if len(line) <= LONGEST_LABEL else f"{line[: LONGEST_LABEL - 1]}…"


def _label(marks: Sequence[Mark], x: Column, y: Column) -> str:
    parts = [f"{_short(name_of(mark.model))} {number(mark.x.value)} and {number(mark.y.value)}" for mark in marks]
    return f"{_short(x.label)} and {_short(y.label)}: {'; '.join(parts)}."


def _note(shaded: bool, lost: int) -> str:
    notes = ["Large marks: the mean over seeds with its interval; small marks: one cell each."]
    if shaded:
        notes.append("Shaded: where models retrained without the forget rows lie; a method belongs there.")
    if lost:
        notes.append(f"Not drawn: {lost} cell{'' if lost == 1 else 's'} without a finite score in both columns.")
    return " ".join(notes)
