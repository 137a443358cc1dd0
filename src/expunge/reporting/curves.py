"""The curves of attacks: what forget rows cost the further an attack goes, beside what they are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.figure import Figure

from expunge.reporting.attacks import MINE, other_of, value
from expunge.reporting.finding import Attack, Setting
from expunge.reporting.plots import COLOURS, FAINT, REST, STYLE, Plot, plain_frame, svg_element
from expunge.reporting.record import Record
from expunge.reporting.words import number

Line = dict[float, float]  # loss by how far the attack has gone
TITLE = "Mean loss of forget rows that were not trained on"
LOOK: Mapping[str, Mapping[str, Any]] = {
    "unlearned": {"color": COLOURS["unlearned"], "marker": "D", "ms": 5},
    "retrained": {"color": COLOURS["retrained"], "marker": "^", "ms": 6, "ls": (0, (5, 2))},
    "never-seen rows": {"color": REST, "marker": "o", "ms": 5, "ls": (0, (2, 1.5))},
}


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve of an attack: what is counted along it, and mean losses by model."""

    title: str
    axis: str
    lines: Mapping[str, Line]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A curve and its drawing."""

    curve: Curve
    plot: Plot


def curves(record: Record) -> list[Curve]:
    """Of settings that lie on a curve, two at least; the model as it was written stands at 0."""
    found = []
    for attack in record.attacks.results:
        for name, settings in _by_curve(attack).items():
            if len(settings) > 1:
                lines = {who: _line(record, settings, *of) for who, of in _compared(settings[0]).items()}
                axis = settings[0].point.axis if settings[0].point else ""
                found.append(Curve(f"{attack.title}: {name}", axis, {who: one for who, one in lines.items() if one}))
    return [one for one in found if one.lines]


def _by_curve(attack: Attack) -> dict[str, list[Setting]]:
    found: dict[str, list[Setting]] = {}
    for setting in attack.settings:
        if setting.point:
            found.setdefault(setting.point.curve, []).append(setting)
    return found


def _compared(setting: Setting) -> dict[str, tuple[str, str]]:
    """Set and model of each line, by its name."""
    name = "retrained" if setting.compared_with == "retrained" else "never-seen rows"
    return {"unlearned": MINE} | ({name: other_of(setting)} if setting.compared_with else {})


def _line(record: Record, settings: list[Setting], rows: str, model: str) -> Line:
    losses = [one for one in record.losses.get(rows, {}).get(model, ()) if one is not None]
    found = {0.0: float(np.mean(losses))} if losses else {}
    for setting in settings:
        loss = value(setting, rows, model, "loss")
        if setting.point and loss is not None:
            found[setting.point.at] = loss
    return found


def draw(record: Record) -> list[Drawn]:
    """A drawing for each curve; its words stand beside it, since no string of a record enters a drawing."""
    return [Drawn(one, _drawn(one, f"curve-{place}")) for place, one in enumerate(curves(record))]


def _drawn(curve: Curve, name: str) -> Plot:
    with style.context(["default", STYLE]):
        drawing = Figure(figsize=(4.7, 2.7), layout="constrained")
        axes = drawing.subplots()
        for who, line in curve.lines.items():
            axes.plot(list(line), list(line.values()), label=who, lw=1.8, **LOOK[who])
        axes.set_ylabel("Nats per token")
        axes.yaxis.set_tick_params(labelcolor=FAINT)
        axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        plain_frame(axes, "y")
        axes.legend(frameon=False, fontsize=9.5, loc="best")
        return Plot(svg_element(drawing, name), _label(curve), f"{TITLE}, by {curve.axis}")


def _label(curve: Curve) -> str:
    lines = [f"{who} " + ", ".join(map(number, line.values())) for who, line in curve.lines.items()]
    at = ", ".join(f"{place:g}" for place in curve.lines["unlearned"])
    return f"{curve.title}, mean loss in nats per token, at {at} {curve.axis}: {'; '.join(lines)}."
