"""How proposed steps went, iteration by iteration: what was planned, what was reached, and what it cost the rest.

From the entries as `loop.proposals` writes them, whatever method proposed. An *iteration* ends with a step that takes
the forget rows on; restorations before it belong to it, those that nothing comes after to the last one. Losses and KL
are in nats per token.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expunge.reporting.finding import known
from expunge.reporting.plots import COLOURS, FAINT, INK, REST, STYLE, Plot, plain_frame, svg_element
from expunge.reporting.proposals import noted
from expunge.reporting.record import HELD_TO, Change, Proposal, Record
from expunge.reporting.words import number

RESTORATION = "restoration"
TITLE = "Iteration by iteration"
HEADERS: tuple[str, ...] = (
    *("Iteration", "Step", "Row passes", "Loss planned", "Loss reached", "Retain KL"),
    *("Needs: mean, most", "Missed", "Dual damping", "Direction left"),
)
SIZE = (4.4, 4.9)  # inches: on a phone a point is about a pixel, so that words stay readable


@dataclass(frozen=True, slots=True)
class Step:
    """A proposal. `at`: its place on the axis, a whole number where an iteration ends; `length`: None where refused.

    `planned`, `reached`: mean loss of forget rows; `kl`: before and after, on acceptance rows; `needs`: mean and most;
    `missed`: of the needs, by the dual solve; `damping`: of the dual; `left`: of a restoration's direction once what
    would move the forget rows is out.
    """

    iteration: int
    at: float
    phase: str
    length: float | None
    planned: float | None
    before: float | None
    reached: float | None
    kl: tuple[float | None, float | None]
    needs: tuple[float | None, float | None]
    missed: float | None
    damping: float | None
    left: float | None
    row_passes: float | None


def steps(record: Record) -> tuple[Step, ...]:
    """Every proposal of a run in order; none for a method that proposes nothing."""
    entries = record.method.proposals if record.method else ()
    found: list[Step] = []
    waiting: list[Proposal] = []
    iteration = 0
    for entry in entries:
        waiting.append(entry)
        if entry.phase != RESTORATION:
            found += [_step(one, iteration, place / len(waiting)) for place, one in enumerate(waiting, 1)]
            waiting, iteration = [], iteration + 1
    last = [_step(one, iteration - 1, 1 + place / (len(waiting) + 1)) for place, one in enumerate(waiting, 1)]
    return (*found, *last)


def _step(entry: Proposal, ended: int, part: float) -> Step:
    """`ended`: iterations before this one; `part` of this one, after the step."""
    before, change = entry.forget.before, known((entry.predicted or Change()).forget)
    forecast = None if before is None or change is None else before + change
    planned = noted(entry.notes, "planned")
    return Step(
        iteration=ended + 1,
        at=ended + part,
        phase=RESTORATION if entry.phase == RESTORATION else "removal",
        length=entry.step,
        planned=forecast if planned is None else planned,
        before=before,
        reached=entry.forget.after,
        kl=(entry.retain_kl.before, entry.retain_kl.after),
        needs=(noted(entry.notes, "needs", "mean"), noted(entry.notes, "needs", "most")),
        missed=noted(entry.notes, "missed"),
        damping=noted(entry.notes, "dual_damping"),
        left=noted(entry.notes, "left_of_it"),
        row_passes=entry.row_passes,
    )


def only_proposed(record: Record) -> bool:
    """Whether all steps of the run were proposed ones, so that the drawing here shows all there is."""
    taken = sum(one.length is not None for one in steps(record))
    return bool(taken) and record.method is not None and record.method.steps == taken


def table(record: Record) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Headers and lines; columns without a single figure are left out."""
    lines = [_line(step) for step in steps(record)]
    kept = [place for place in range(len(HEADERS)) if place < 2 or any(line[place] for line in lines)]
    headers = [HEADERS[place] for place in kept]
    return tuple(headers), tuple(tuple(line[place] for place in kept) for line in lines)


def _line(step: Step) -> tuple[str, ...]:
    mean, most = step.needs
    before, after = step.kl
    both = after is not None and before is not None
    return (
        f"{step.phase} {step.iteration}",
        "refused" if step.length is None else f"{step.length:.3g}",
        "" if step.row_passes is None else f"{step.row_passes:,.0f}",
        "" if step.phase == RESTORATION else _known(step.planned),
        _known(step.reached),
        f"{number(before)} to {number(after)}" if both else _known(after),
        "" if mean is None or most is None else f"{mean:.2f}, {most:.2f}",
        "" if step.missed is None else f"{100 * step.missed:.1f} %",
        "" if step.damping is None else number(step.damping),
        "" if step.left is None else f"{100 * step.left:.0f} %",
    )


def _known(value: float | None) -> str:
    return "" if value is None else number(value)


def draw(record: Record) -> Plot | None:
    """Forget loss planned and reached, with the target; below it the KL. None where no step has its loss measured."""
    found = steps(record)
    if not any(one.reached is not None for one in found):
        return None
    target, kl = _target(record), _walk(found, "kl")
    with style.context(["default", STYLE]):
        drawing = Figure(figsize=SIZE if kl else (SIZE[0], 0.6 * SIZE[1]), layout="constrained")
        rooms = drawing.subplots(2 if kl else 1, 1, sharex=True, squeeze=False, height_ratios=[3, 2][: 2 if kl else 1])
        _draw_forget(rooms[0, 0], found, target)
        if kl:
            _draw_kl(rooms[1, 0], kl)
        last = rooms[-1, 0]
        last.set_xlabel("Iteration")
        most = max(1, max(one.iteration for one in found))
        last.set_xticks(np.unique(np.linspace(0, most, min(most, 10) + 1).round().astype(int)))
        last.set_xlim(-0.06 * most, max(most, found[-1].at) + 0.06 * most)
        note = _note(found, record.method is not None and HELD_TO in record.method.notes)
        return Plot(svg_element(drawing, "iterations"), _label(found, target, kl), note)


def _walk(found: Sequence[Step], what: str) -> list[tuple[float, float]]:
    """Places and values along all steps that were taken, from where the first began."""
    pairs = [(one, *(one.kl if what == "kl" else (one.before, one.reached))) for one in found if one.length is not None]
    walked = [(0.0, before) for _, before, _ in pairs[:1]] + [(one.at, after) for one, _, after in pairs]
    known = [(at, value) for at, value in walked if value is not None]
    return known if len(known) > 1 else []


def _draw_forget(axes: Axes, found: Sequence[Step], target: float | None) -> None:
    planned = [(one.at, one.planned) for one in found if one.phase != RESTORATION and one.planned is not None]
    if target is not None:
        axes.axhline(target, color=INK, ls=(0, (5, 3)), lw=1.4, label="target", zorder=1)
    reached = _walk(found, "forget")
    if reached:
        look: Mapping[str, Any] = {"color": COLOURS["unlearned"], "marker": "D", "ms": 4, "lw": 1.8, "zorder": 2}
        axes.plot(*zip(*reached, strict=True), label="reached", **look)
    if planned:
        look = {"color": COLOURS["retrained"], "marker": "o", "ms": 9, "mfc": "none", "mew": 1.8, "ls": "none"}
        axes.plot(*zip(*planned, strict=True), label="planned", zorder=3, **look)
    _dress(axes, "Forget rows: mean loss")
    axes.set_ylim(0, axes.get_ylim()[1])
    axes.legend(frameon=False, fontsize=10, loc="lower right")


def _draw_kl(axes: Axes, kl: Sequence[tuple[float, float]]) -> None:
    axes.plot(*zip(*kl, strict=True), color=REST, marker="s", ms=4, lw=1.8)
    _dress(axes, "Rows to keep: KL on acceptance rows")
    axes.set_ylim(0, max(1.15 * max(value for _, value in kl), 0.01))  # a narrow axis would make noise look like damage


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.set_ylabel("Nats per token")
    axes.yaxis.set_tick_params(labelcolor=FAINT)
    plain_frame(axes, "y")


def _target(record: Record) -> float | None:
    """The mean of the rows' targets, as the history has it."""
    return next((one.target for one in reversed(record.history) if one.target is not None), None)


def _label(found: Sequence[Step], target: float | None, kl: Sequence[tuple[float, float]]) -> str:
    parts = [
        f"iteration {one.iteration}: reached {number(one.reached)}"
        + ("" if one.planned is None else f", planned {number(one.planned)}")
        for one in found
        if one.phase != RESTORATION and one.reached is not None
    ]
    aim = "" if target is None else f" Target: {number(target)}."
    most = max((value for _, value in kl), default=0.0)
    lost = f" KL on acceptance rows: {number(kl[-1][1])} at the end, {number(most)} at most." if kl else ""
    return f"Mean loss of forget rows by iteration, in nats per token. {'; '.join(parts)}.{aim}{lost}"


def _note(found: Sequence[Step], first: bool) -> str:
    """`first`: rows to keep were held to the first model of requests in sequence."""
    back = sum(one.phase == RESTORATION and one.length is not None for one in found)
    refused = sum(one.length is None for one in found)
    notes = [f"Marks between iterations, and after the last, are restorations ({back} taken)."] if back else []
    notes += (
        ["The KL is that from the first model, so it begins where the runs before this one ended."] if first else []
    )
    notes += [f"{refused} proposals were refused and changed nothing."] if refused else []
    return " ".join(notes)
