"""Sophia's checks, from `method.notes.sophia` of a record: which share of its step was left unclipped.

Measured midway between two refreshes of the curvature. The band of 10 to 50 % is that of its paper (2305.14342).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from matplotlib import style
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from expunge.reporting.plots import COLOURS, FAINT, STYLE, Plot, plain_frame, svg_element
from expunge.reporting.proposals import figure

Record = Mapping[str, Any]
BAND = (0.1, 0.5)
PROBE = "probe"
TITLE = "How much of its step Sophia clipped"
NOTE = (
    "Green: the band of 10 to 50 % that Sophia's paper asks for. Measured midway between two refreshes of the "
    "curvature, so on batches that did not set its scale. A line that breaks is another attempt or phase."
)
LEAD = (
    "Sophia divides each coordinate's step by its curvature and clips what is left too long. Where nearly all is "
    "clipped, the curvature hardly counts; where hardly anything is, a few coordinates may take overlong steps."
)
BELOW = "nearly every coordinate is clipped there, so steps have equal length and the curvature hardly counts"
ABOVE = "little is clipped there, so coordinates with small curvature may take long steps"


@dataclass(frozen=True, slots=True)
class Check:
    """One measured share; `run` is the phase and the attempt that the step is counted in."""

    run: tuple[str, int]
    step: int
    share: float


def of(record: Record) -> tuple[Check, ...]:
    """The checks of a run, without those of the probe; none for another optimiser."""
    return read(((record.get("method") or {}).get("notes") or {}).get("sophia"))


def read(entries: Sequence[Mapping[str, Any]] | None) -> tuple[Check, ...]:
    """From the entries as `curvature_refresh` writes them, without the probe's, whose rates are not the run's."""
    found = []
    for entry in entries or ():
        share, step = figure(entry.get("unclipped")), figure(entry.get("step"))
        if share is None or step is None or entry.get("during") == PROBE:
            continue
        run = (str(entry.get("phase") or ""), int(figure(entry.get("attempt")) or 1))
        found.append(Check(run, int(step), share))
    return tuple(found)


def inside(shares: Sequence[float]) -> int:
    """How many lie in the band."""
    return sum(BAND[0] <= share <= BAND[1] for share in shares)


def percent(share: float) -> str:
    """In whole percent."""
    return f"{100 * share:.0f} %"


def sentence(checks: Sequence[Check]) -> str:
    """What the shares say of the run."""
    shares = [check.share for check in checks]
    within, below = inside(shares), sum(share < BAND[0] for share in shares)
    above = len(shares) - within - below
    said = (
        f"At {within} of {len(shares)} checks ({percent(within / len(shares))}) between 10 and 50 % of the coordinates "
        f"were unclipped; the median is {percent(median(shares))}."
    )
    outside = [
        f"{count} of them {'lies' if count == 1 else 'lie'} {where}: {why}."
        for count, where, why in ((below, "below", BELOW), (above, "above", ABOVE))
        if count
    ]
    return " ".join([said, *outside])


def draw(checks: Sequence[Check]) -> Plot | None:
    """The share over steps, with the band. None without checks."""
    if not checks:
        return None
    with style.context(["default", STYLE]):
        drawing = Figure(figsize=(9.6, 2.6), layout="constrained")
        axes = drawing.subplots()
        axes.axhspan(*BAND, color="#dcebdd", lw=0, zorder=0)
        for run in dict.fromkeys(check.run for check in checks):
            points = [(check.step, check.share) for check in checks if check.run == run]
            axes.plot(*zip(*points, strict=True), color=COLOURS["unlearned"], marker="D", ms=4.5, lw=1.8, clip_on=False)
        axes.annotate(
            "10 to 50 %", (1.0, sum(BAND) / 2), xycoords="axes fraction", xytext=(8, 0), textcoords="offset points",
            va="center", fontsize=9.5, color=FAINT,
        )  # fmt: skip
        axes.set_ylim(0, 1)
        axes.set_xlim(left=0)
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        axes.yaxis.set_tick_params(labelcolor=FAINT)
        axes.set_title("Share of coordinates left unclipped", loc="left", fontsize=11, fontweight="bold")
        axes.set_xlabel("Step")
        plain_frame(axes, "y")
        return Plot(svg_element(drawing, "sophia"), _label(checks), NOTE)


def _label(checks: Sequence[Check]) -> str:
    shares = [check.share for check in checks]
    spread = f"from {percent(min(shares))} to {percent(max(shares))}, median {percent(median(shares))}"
    return (
        f"Share of coordinates that Sophia left unclipped at {len(shares)} checks over steps: {spread}, "
        f"{inside(shares)} within 10 to 50 %."
    )
