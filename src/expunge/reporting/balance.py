"""Forgetting against keeping in one picture: where the unlearned model went, and where it belongs.

Both axes are mean losses in nats per token, from 0 (known by heart) to beyond what never-seen rows cost (not known at
all), so that a move is seen against what knowing and not knowing are. No string of a record enters the drawing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from expunge.reporting.plots import (
    BAND,
    COLOURS,
    FAINT,
    INK,
    MARKERS,
    SQUEEZE_BEYOND,
    STYLE,
    Plot,
    plain_frame,
    scaled,
    svg_element,
)
from expunge.reporting.record import Record
from expunge.reporting.words import MODELS, number

KEPT = {"retain": "Rows to keep", "guard": "Guard rows", "collateral": "Other trained rows", "samples": "Own samples"}
SIZE = (4.9, 4.1)  # inches: on a phone a point is about a pixel, so that words stay readable
THINNEST = 0.03  # of an axis: a narrower band could not be seen


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean loss with its interval, which is the value twice where none is known."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Mark:
    """One model: its loss on the rows to forget and on those to keep."""

    model: str
    forget: Mean
    keep: Mean


@dataclass(frozen=True, slots=True)
class Aim:
    """Where the unlearned model belongs: the retrained model's intervals, or, without one, those of never-seen rows
    (across) and of the original (upward)."""

    forget: Mean
    keep: Mean
    of_retrained: bool


def draw(record: Record) -> Plot | None:
    """None where no model has a loss on both sides."""
    means = _means(record)
    kept = next((name for name in KEPT if (name, "unlearned") in means), None)
    if kept is None:
        return None
    found = [
        Mark(model, means["forget", model], means[kept, model])
        for model in MODELS
        if ("forget", model) in means and (kept, model) in means
    ]
    if not found:
        return None
    unseen = means.get(("judging", "unlearned")) or means.get(("judging", "original"))
    aim = _aim(found, unseen)
    with style.context(["default", STYLE]):
        figure = Figure(figsize=SIZE)
        axes = figure.add_axes((0.15, 0.16, 0.83, 0.81))
        _frame(axes, found, unseen, kept)
        _draw(axes, found, aim, unseen)
        return Plot(svg_element(figure, "balance"), _label(found, kept, unseen), _note(aim, unseen))


def _means(record: Record) -> dict[tuple[str, str], Mean]:
    """Mean losses by set and model."""
    found = {}
    for score in record.scores:
        if score.metric == "loss" and score.value is not None and math.isfinite(score.value):
            ends = [score.value if end is None else end for end in (score.low, score.high)]
            found[score.set, score.model] = Mean(score.value, *ends)
    return found


def _aim(found: Sequence[Mark], unseen: Mean | None) -> Aim | None:
    by_model = {mark.model: mark for mark in found}
    if twin := by_model.get("retrained"):
        return Aim(twin.forget, twin.keep, of_retrained=True)
    if unseen is None or "original" not in by_model:
        return None
    return Aim(unseen, by_model["original"].keep, of_retrained=False)


def _frame(axes: Axes, found: Sequence[Mark], unseen: Mean | None, kept: str) -> None:
    """Axes from a little before 0; upward the loss falls, so that better is up."""
    level = unseen.value if unseen else 1.0
    across = scaled(axes, "x", max(level, *(mark.forget.high for mark in found)))
    upward = scaled(axes, "y", max(level, *(mark.keep.high for mark in found)))
    axes.set_xlim(-0.04 * min(across, SQUEEZE_BEYOND), across)
    axes.set_ylim(upward, -0.05 * min(upward, SQUEEZE_BEYOND))
    axes.set_xlabel("Rows to forget: loss, nats per token\n← known by heart · not known →")
    axes.set_ylabel(f"{KEPT[kept]}: loss, nats per token\n← not known · known by heart →")
    axes.yaxis.set_tick_params(labelcolor=FAINT)
    plain_frame(axes, "both")


def _draw(axes: Axes, found: Sequence[Mark], aim: Aim | None, unseen: Mean | None) -> None:
    if aim is not None:
        _draw_aim(axes, aim)
    if unseen is not None:
        axes.axvline(unseen.value, color=INK, ls=(0, (2, 2)), lw=1.1, zorder=2, label="never-seen rows")
        axes.axhline(unseen.value, color=INK, ls=(0, (2, 2)), lw=1.1, zorder=2)
    by_model = {mark.model: mark for mark in found}
    if len({"original", "unlearned"} & set(by_model)) == 2:
        first, last = by_model["original"], by_model["unlearned"]
        axes.annotate(
            "", (last.forget.value, last.keep.value), (first.forget.value, first.keep.value),
            arrowprops={"arrowstyle": "->", "color": COLOURS["unlearned"], "lw": 1.4, "shrinkA": 7, "shrinkB": 7},
        )  # fmt: skip
    for mark in found:
        _draw_mark(axes, mark)
    ground = {"facecolor": "#ffffff", "edgecolor": "none", "framealpha": 1}  # over the lines that cross it
    axes.legend(fontsize=10, loc="center", bbox_to_anchor=(0.5, 0.45), labelcolor=INK, **ground)


def _draw_aim(axes: Axes, aim: Aim) -> None:
    (left, right), (low, high) = (
        _wide(mean, min(abs(ends[1] - ends[0]), SQUEEZE_BEYOND))
        for mean, ends in ((aim.forget, axes.get_xlim()), (aim.keep, axes.get_ylim()))
    )
    axes.add_patch(
        Rectangle((left, low), right - left, high - low, facecolor=BAND, edgecolor=INK, lw=0.7, zorder=1,
                  label="where it belongs")
    )  # fmt: skip


def _wide(mean: Mean, whole: float) -> tuple[float, float]:
    """The ends of a band, apart enough to be seen."""
    least = THINNEST * whole / 2
    return min(mean.low, mean.value - least), max(mean.high, mean.value + least)


def _draw_mark(axes: Axes, mark: Mark) -> None:
    colour, hollow = COLOURS[mark.model], mark.model == "retrained"
    across, upward = mark.forget, mark.keep
    bars = [[[mean.value - mean.low], [mean.high - mean.value]] for mean in (across, upward)]
    axes.errorbar(
        across.value, upward.value, xerr=bars[0], yerr=bars[1], fmt="none", ecolor=colour, elinewidth=1.3, capsize=3,
        alpha=0.8, zorder=3,
    )  # fmt: skip
    axes.plot(
        across.value, upward.value, MARKERS[mark.model], color=colour, ms=12 if hollow else 9, label=mark.model,
        ls="none", mfc="none" if hollow else colour, mew=1.9 if hollow else 0, clip_on=False, zorder=5,
    )  # fmt: skip


def _label(found: Sequence[Mark], kept: str, unseen: Mean | None) -> str:
    parts = "; ".join(f"{mark.model} {number(mark.forget.value)} and {number(mark.keep.value)}" for mark in found)
    level = "" if unseen is None else f" Never-seen rows cost {number(unseen.value)}."
    return f"Mean loss of the rows to forget and of {KEPT[kept].lower()}, in nats per token: {parts}.{level}"


def _note(aim: Aim | None, unseen: Mean | None) -> str:
    notes = []
    if aim is not None and aim.of_retrained:
        notes.append("Shaded: the interval of the model that was retrained without these rows.")
    elif aim is not None:
        notes.append(
            "Shaded: across, the interval of never-seen rows under the unlearned model; upward, the original's. No "
            "retrained model was measured."
        )
    if aim is not None:
        notes.append(
            "A mark whose whole bar lies left of it is not forgotten; right of it, over-forgotten; below it, the rest "
            "was damaged."
        )
    if unseen is not None:
        notes.append("Dotted: what never-seen rows cost, which is not to know a row at all.")
    return " ".join([*notes, "Bars: 95 % intervals over rows."])
