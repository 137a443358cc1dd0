"""The steps that a method proposed, from `method.proposals` of a record: read, and as a table of plain strings.

Of a proposal's notes only the figures named here are taken, and the few words that our own code writes. Changes of loss
and retain KL are in nats per token; a record writes null for a number that is not finite.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge.reporting.words import Badge, number

Record = Mapping[str, Any]
TITLE = "Steps that the method proposed"
LEAD = (
    "A proposed step moves the weights straight along a computed direction. How far was found by measuring acceptance "
    "rows: retain rows that neither the gradient nor the curvature saw. Below what was measured stands what gradient "
    "and curvature predicted, in nats per token."
)
HEADERS = ("Proposal", "Step", "Damping", "Forget loss", "Retain loss", "Retain KL", "Cosine", "Curvature fitted on")
UNMOVED = 0.01  # share of the retain KL reached: with less than that before the step, the forecast of it holds
WORDS = {
    "Fixed": "as given",
    "LineSearch": "line search",
    "ToTargets": "smallest that reaches the targets",
    "Restore": "down the retain KL",
}
NO_FORECAST, NO_STEP = "no forecast", "no step"


@dataclass(frozen=True, slots=True)
class Change:
    """A change by one proposal alone; None where it was not measured or there is no forecast."""

    measured: float | None
    predicted: float | None


@dataclass(frozen=True, slots=True)
class Proposed:
    """One proposal; `place` counts from 1. `step` is None where it was refused.

    `budget` and `unit` ("kl" or "loss") are those of a retain budget, counted from the original, and `reached` is what
    was used of it after the step; for other rules `reached` is the retain KL. `cosine` of forget and retain gradients.
    """

    place: int
    phase: str
    rule: str
    step: float | None
    refused: str
    budget: float | None
    unit: str
    reached: float | None
    forget: Change
    retain: Change
    retain_kl: Change
    damping: float | None
    mean_curvature: float | None
    warning: str
    cosine: float | None
    cosine_in_metric: float | None
    curvature: str
    examples: float | None
    tokens: float | None
    measurements: float | None

    @property
    def taken(self) -> bool:
        return self.step is not None

    @property
    def name(self) -> str:
        return f"Proposal {self.place} ({self.phase})" if self.phase else f"Proposal {self.place}"


@dataclass(frozen=True, slots=True)
class Cell:
    """A value with what stands below it; `tone` where a detail is a warning, `badge` in place of a value."""

    value: str
    details: tuple[str, ...] = ()
    warning: str = ""
    badge: Badge | None = None


def of(record: Record) -> tuple[Proposed, ...]:
    """The proposals of a run; none for a method that proposes nothing and for a record of an evaluation."""
    return read((record.get("method") or {}).get("proposals"))


def read(entries: Sequence[Mapping[str, Any]] | None) -> tuple[Proposed, ...]:
    """From the entries as `propose` writes them; what an entry lacks is None or empty."""
    return tuple(_read(place, entry) for place, entry in enumerate(entries or (), start=1))


def _read(place: int, entry: Mapping[str, Any]) -> Proposed:
    notes, rule, step = entry.get("notes") or {}, entry.get("rule") or {}, figure(entry.get("step"))
    unit = str(rule.get("unit") or "kl")
    used = entry.get("retain_rise" if unit == "loss" else "retain_kl") or {}
    return Proposed(
        place=place,
        phase=str(entry.get("phase") or ""),
        rule=_rule(rule),
        step=step,
        refused="" if step is not None else str(entry.get("refused") or "the step is not finite"),
        budget=figure(rule.get("budget")),
        unit=unit,
        reached=figure(used.get("after")),
        forget=_change(entry, "forget"),
        retain=_change(entry, "retain"),
        retain_kl=_change_of_kl(entry),
        damping=figure(notes.get("damping")),
        mean_curvature=figure(notes.get("mean_curvature")),
        warning=str(notes.get("warning") or ""),
        cosine=figure(notes.get("cosine")),
        cosine_in_metric=figure(notes.get("cosine_in_metric")),
        curvature=_curvature(notes),
        examples=figure(notes.get("examples")),
        tokens=figure(notes.get("tokens")),
        measurements=figure(entry.get("measurements")),
    )


def figure(value: Any) -> float | None:
    """A finite number, or None for whatever else an entry holds there."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _rule(rule: Mapping[str, Any]) -> str:
    if rule.get("name") == "RetainBudget":
        what = "rise of retain loss" if rule.get("unit") == "loss" else "retain KL"
        return f"largest within {significant(figure(rule.get('budget')))} of {what}"
    return WORDS.get(str(rule.get("name")), "")


def _change(entry: Mapping[str, Any], name: str) -> Change:
    measured, predicted = entry.get("measured") or {}, entry.get("predicted") or {}
    return Change(figure(measured.get(name)), figure(predicted.get(name)))


def _change_of_kl(entry: Mapping[str, Any]) -> Change:
    """A step's bend forecasts the retain KL from the weights of the original only, so a later step has no forecast."""
    change, kl = _change(entry, "retain_kl"), entry.get("retain_kl") or {}
    before, after = figure(kl.get("before")), figure(kl.get("after"))
    first = before is not None and after is not None and abs(before) <= UNMOVED * abs(after)
    return change if first else Change(change.measured, None)


def _curvature(notes: Mapping[str, Any]) -> str:
    labels = f", {notes['labels']} labels" if notes.get("labels") else ""
    return f"{notes['curvature']}{labels}" if notes.get("curvature") else ""


def lines(proposed: Sequence[Proposed]) -> tuple[tuple[Cell, ...], ...]:
    """One line for each; the cells follow `HEADERS`."""
    return tuple(_line(one) for one in proposed)


def _line(one: Proposed) -> tuple[Cell, ...]:
    return (
        Cell(str(one.place), (one.phase,) if one.phase else ()),
        _step(one),
        _damping(one),
        *(_changed(one, change) for change in (one.forget, one.retain, one.retain_kl)),
        _cosine(one),
        _fitted(one),
    )


def _step(one: Proposed) -> Cell:
    measured = "" if one.measurements is None else f"{one.measurements:.0f} measurements"
    if not one.taken:
        return Cell("", (one.refused, *([measured] if measured else [])), badge=Badge("refused", "warn"))
    return Cell(significant(one.step), tuple(part for part in (one.rule, measured) if part))


def _damping(one: Proposed) -> Cell:
    if one.damping is None:
        return Cell("none")
    mean = () if one.mean_curvature is None else (f"mean curvature {significant(one.mean_curvature)}",)
    return Cell(significant(one.damping), mean, warning=one.warning)


def _changed(one: Proposed, change: Change) -> Cell:
    if not one.taken:
        return Cell(NO_STEP)
    predicted = NO_FORECAST if change.predicted is None else f"predicted {signed(change.predicted)}"
    return Cell(signed(change.measured), (predicted,))


def _cosine(one: Proposed) -> Cell:
    if one.cosine is None:
        return Cell("not taken")
    metric = () if one.cosine_in_metric is None else (f"in the metric {one.cosine_in_metric:.2f}",)
    return Cell(f"{one.cosine:.2f}", metric)


def _fitted(one: Proposed) -> Cell:
    counts = [f"{n:,.0f} {what}" for n, what in ((one.examples, "examples"), (one.tokens, "tokens")) if n is not None]
    return Cell(one.curvature or "not named", (", ".join(counts),) if counts else ())


def signed(value: float | None) -> str:
    """A change: with its sign."""
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def significant(value: float | None) -> str:
    """Three digits that count, for figures of any size."""
    return number(value) if value is None else f"{value:.3g}"
