"""Plots as inline SVG, from numbers and fixed words only: no string of a record enters a drawing.

Made without pyplot, so that drawing changes no global state. Fixed salt, no date and no namespace: the same record
gives the same bytes, and the drawing refers to nothing outside itself.
"""

import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from numpy.typing import NDArray

from expunge.reporting.record import Check, Record
from expunge.reporting.words import MODELS, SETS

Floats = NDArray[np.float64]
MOST_DOTS = 160  # per strip: more look no different and make the page heavy
FEWEST_FOR_BOX = 5
SQUEEZE_BEYOND = 12.0  # nats: about what guessing among a vocabulary costs; worse than that needs no fine scale
INK, FAINT, GRID = "#1f2933", "#5b6673", "#e3e7ec"
COLOURS = {"original": "#6b7280", "unlearned": "#0b63b5", "retrained": "#b45309"}
BAND, REST, EDGE = "#dcebdd", "#0f766e", "#9aa5b1"
# What a page calls these colours, so that its style can have others in the dark (`html.inline`).
THEME = {
    **{INK: "ink", FAINT: "faint", GRID: "grid", EDGE: "edge", BAND: "band", REST: "rest", "#ffffff": "ground"},
    **{colour: model for model, colour in COLOURS.items()},
}
MARKERS = {"original": "o", "unlearned": "D", "retrained": "^"}
STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "expunge",
    "font.size": 10.5,
    "text.color": INK,
    "axes.edgecolor": EDGE,
    "axes.labelcolor": INK,
    "xtick.color": FAINT,
    "ytick.color": INK,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """`svg` is markup to be placed as it is; `label` says the same in words, for those who cannot see it."""

    svg: str
    label: str
    note: str


@dataclass(frozen=True, slots=True)
class Strip:
    """The finite losses of one set under one model, ascending; `lost` were not finite."""

    model: str
    values: Floats
    lost: int


def losses(record: Record) -> Plot | None:
    """One panel per set, one strip per model, all on one axis. None where no loss was recorded."""
    panels = {name: _strips(record.losses.get(name, {})) for name in SETS}
    panels = {name: strips for name, strips in panels.items() if strips}
    if not panels:
        return None
    heights = [len(strips) for strips in panels.values()]
    with style.context(["default", STYLE]):  # not what a person's matplotlibrc says
        figure = Figure(figsize=(9.6, 0.75 + 0.36 * len(panels) + 0.5 * sum(heights)), layout="constrained")
        grid = figure.subplots(len(heights), 1, sharex=True, squeeze=False, height_ratios=heights)
        band = _band(panels.get("judging", ()))
        for axes, (name, strips) in zip(grid[:, 0], panels.items(), strict=True):
            _draw_panel(axes, name, strips, band if name == "forget" else None)
        most = max(float(strip.values[-1]) for strips in panels.values() for strip in strips if strip.values.size)
        squeezed = _scale(grid[-1, 0], most)
        return Plot(svg_element(figure, "losses"), _losses_label(panels), _losses_note(panels, band, squeezed))


def _strips(found: Mapping[str, Sequence[float | None]]) -> tuple[Strip, ...]:
    strips = []
    for model in MODELS:
        values = np.array([np.nan if value is None else value for value in found.get(model, ())], dtype=np.float64)
        finite = np.sort(values[np.isfinite(values)])
        if finite.size:
            strips.append(Strip(model, finite, int(values.size - finite.size)))
    return tuple(strips)


def _band(strips: Sequence[Strip]) -> tuple[float, float] | None:
    """The middle nine tenths of never-seen rows under the unlearned model: where forgotten rows belong."""
    for strip in strips:
        if strip.model == "unlearned" and strip.values.size >= FEWEST_FOR_BOX:
            low, high = np.quantile(strip.values, (0.05, 0.95))
            return float(low), float(high)
    return None


def _draw_panel(axes: Axes, name: str, strips: Sequence[Strip], band: tuple[float, float] | None) -> None:
    if band is not None:
        axes.axvspan(*band, color=BAND, lw=0, zorder=0)
    for place, strip in enumerate(strips):
        _draw_strip(axes, len(strips) - 1 - place, strip)
    axes.set_yticks(range(len(strips) - 1, -1, -1), [strip.model for strip in strips])
    axes.set_ylim(-0.55, len(strips) - 0.45)
    seen = " (never seen)" if name == "judging" else ""
    axes.set_title(SETS[name].title + seen, loc="left", fontsize=11, fontweight="bold", pad=4)
    axes.yaxis.set_tick_params(pad=9)
    plain_frame(axes, "x")


def _draw_strip(axes: Axes, place: int, strip: Strip) -> None:
    colour, values = COLOURS[strip.model], strip.values
    if values.size > MOST_DOTS:
        values = values[np.linspace(0, values.size - 1, MOST_DOTS).round().astype(int)]
    spread = min(0.5, 0.05 * (values.size - 1))
    # multiples of the golden ratio: even, without the clumps of random numbers
    heights = place + spread * ((np.arange(values.size) * 0.6180339887) % 1 - 0.5 * (values.size > 1))
    size, alpha = (8.0, 0.95) if values.size < FEWEST_FOR_BOX else (4.2, 0.5)
    axes.plot(
        values, heights, MARKERS[strip.model], color=colour, ms=size, alpha=alpha, mew=0, zorder=3, clip_on=False
    )  # fmt: skip
    middle = float(np.median(strip.values))
    if strip.values.size >= FEWEST_FOR_BOX:
        low, high = np.quantile(strip.values, (0.25, 0.75))
        axes.plot([low, high], [place, place], color=colour, lw=9, alpha=0.28, solid_capstyle="butt", zorder=2)
        axes.plot([middle, middle], [place - 0.31, place + 0.31], color=INK, lw=1.8, zorder=4)
    axes.annotate(
        f"median {middle:.2f}, n = {strip.values.size}", (1.0, place), xycoords=("axes fraction", "data"),
        xytext=(10, 0), textcoords="offset points", va="center", fontsize=9.5, color=FAINT,
    )  # fmt: skip


def _scale(axes: Axes, most: float) -> bool:
    """True where the axis had to be squeezed to keep both the usual losses and the largest readable."""
    axes.set_xlim(0, scaled(axes, "x", most))
    axes.set_xlabel("Loss per row, nats per token (further right = less known)")
    return axes.get_xscale() != "linear"


def scaled(axes: Axes, which: Literal["x", "y"], most: float) -> float:
    """Where an axis of losses ends; squeezed beyond the usual ones where the largest is far from them."""
    if most <= 1.5 * SQUEEZE_BEYOND:
        return most * 1.04 or 1.0
    squeeze, axis = (axes.set_xscale, axes.xaxis) if which == "x" else (axes.set_yscale, axes.yaxis)
    squeeze("symlog", linthresh=SQUEEZE_BEYOND, linscale=2.5)
    ticks = [0, 2, 4, 6, 8, 10, 12, *(tick for tick in (30, 100, 300, 1000, 10000) if tick < most * 1.2)]
    axis.set_ticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_ticks([], minor=True)
    return most * 1.25


def _losses_label(panels: Mapping[str, Sequence[Strip]]) -> str:
    parts = []
    for name, strips in panels.items():
        middles = ", ".join(f"{s.model} {np.median(s.values):.2f}" for s in strips)
        parts.append(f"{SETS[name].title} ({strips[0].values.size}): {middles}")
    return "Median loss in nats per token. " + "; ".join(parts) + "."


def _losses_note(panels: Mapping[str, Sequence[Strip]], band: tuple[float, float] | None, squeezed: bool) -> str:
    strips = [strip for found in panels.values() for strip in found]
    notes = ["Each mark is one row."]
    if any(strip.values.size >= FEWEST_FOR_BOX for strip in strips):
        notes.append("Bar: the middle half; line: the median.")
    if band is not None and "forget" in panels:
        notes.append(
            "Green: where nine in ten judging rows, never seen, lie under the unlearned model; forgotten rows belong "
            "there."
        )
    if any(strip.values.size > MOST_DOTS for strip in strips):
        notes.append(f"Of larger sets, {MOST_DOTS} rows spread evenly over the ranking are drawn.")
    if squeezed:
        notes.append(f"The axis is squeezed beyond {SQUEEZE_BEYOND:.0f}, about the cost of guessing.")
    if lost := sum(strip.lost for strip in strips):
        notes.append(f"{lost} losses were not finite and are not drawn.")
    return " ".join(notes)


def history(record: Record) -> Plot | None:
    """Forget loss against its target, and beside it the rows to keep. None where nothing was trained."""
    steps = record.history
    series = _series(steps)
    series = {key: values for key, values in series.items() if np.isfinite(values).any()}
    if not series:
        return None
    at = np.array([entry.step for entry in steps], dtype=np.float64)
    with style.context(["default", STYLE]):
        figure = Figure(figsize=(9.6, 2.9), layout="constrained")
        left, right = figure.subplots(1, 2)
        _draw_history(left, "Forget rows: loss and target", at, series, ("forget", "target"))
        _draw_history(right, "Rows to keep", at, series, ("retain", "guard"))
        _at_least(right, 0.5)
        label = "; ".join(f"{key} from {_first(v):.2f} to {_first(v[::-1]):.2f}" for key, v in series.items())
        return Plot(svg_element(figure, "history"), f"Losses over steps, in nats per token: {label}.", "")


def _series(steps: Sequence[Check]) -> dict[str, Floats]:
    """None is a gap."""
    return {
        "forget": np.array([one.forget for one in steps], dtype=np.float64),
        "target": np.array([one.target for one in steps], dtype=np.float64),
        "retain": np.array([one.retain for one in steps], dtype=np.float64),
        "guard": np.array([one.guard for one in steps], dtype=np.float64),
    }


def _first(values: Floats) -> float:
    return float(values[np.isfinite(values)][0])


LOOK: Mapping[str, Mapping[str, Any]] = {
    "forget": {"color": COLOURS["unlearned"], "marker": "D"},
    "target": {"color": INK, "ls": (0, (5, 3))},
    "retain": {"color": REST, "marker": "o"},
    "guard": {"color": COLOURS["retrained"], "marker": "s", "ls": (0, (2, 1.5))},
}


def _draw_history(axes: Axes, title: str, at: Floats, series: Mapping[str, Floats], keys: Sequence[str]) -> None:
    # a step that goes back is the start of another attempt: the line breaks there
    breaks = np.flatnonzero(np.diff(at) <= 0) + 1
    for key in (key for key in keys if key in series):
        size = 4 if at.size <= 60 else 0
        axes.plot(
            np.insert(at, breaks, np.nan), np.insert(series[key], breaks, np.nan),
            label=key, lw=1.8, ms=size if key != "target" or at.size > 1 else 8, **LOOK[key],
        )  # fmt: skip
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_xlabel("Step")
    axes.set_ylabel("Nats per token")
    axes.yaxis.set_tick_params(labelcolor=FAINT)
    plain_frame(axes, "y")
    if axes.lines:
        axes.legend(frameon=False, fontsize=9.5, loc="best")
    else:
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", va="center", color=FAINT)


def _at_least(axes: Axes, span: float) -> None:
    """A narrow axis would make noise look like damage."""
    low, high = axes.get_ylim()
    if high - low < span:
        low = max(0.0, (low + high - span) / 2)
        axes.set_ylim(low, low + span)


def plain_frame(axes: Axes, grid: str) -> None:
    """Grid lines along `grid` ("x", "y" or "both") in place of a box."""
    for side in ("top", "right", "left" if grid == "x" else "top"):
        axes.spines[side].set_visible(False)
    axes.grid(axis=grid, color=GRID, lw=0.9)  # type: ignore[arg-type]
    axes.set_axisbelow(True)
    axes.tick_params(length=0)


def svg_element(figure: Figure, prefix: str) -> str:
    """Only the `<svg>` element, sized by the page. Names get the prefix, since several drawings share one page."""
    FigureCanvasSVG(figure)
    written = io.StringIO()
    nothing: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
    figure.savefig(written, format="svg", metadata=nothing)
    svg = written.getvalue()
    svg = svg[svg.index("<svg") :].replace("xlink:href=", "href=")
    svg = re.sub(r' xmlns(:xlink)?="[^"]*"', "", svg)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r" font-family: [^;\"]*;?", "", svg)
    svg = re.sub(r"<style.*?</style>", "", svg, count=1, flags=re.DOTALL)
    return re.sub(r'(id="|url\(#|href="#)', rf"\g<1>{prefix}-", svg)
