"""What a method proposed, as the lines of one table: steps taken or refused, measured and predicted changes, Sophia.

Of a proposal's open notes, and of the checks as `curvature_refresh` writes them, only the figures named here are taken,
and the words of a warning. Changes are in nats per token.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Literal

from expunge.reporting.finding import known
from expunge.reporting.record import Change, Proposal
from expunge.reporting.words import number

TITLE = "Proposed steps and what Sophia left unclipped"
HEADERS = (
    *("Proposal", "Step", "Norm of the direction", "Change of forget loss", "Change of retain loss"),
    *("Change of retain KL", "Damping", "Cosine", "Measurements"),
)
Name = Literal["forget", "retain", "retain_kl"]
CHANGES: tuple[Name, ...] = ("forget", "retain", "retain_kl")
BAND = (0.1, 0.5)  # of the coordinates, unclipped: what Sophia's paper asks for (2305.14342)
UNMOVED = 0.01  # share of the retain KL reached: with less than that before the step, the forecast of it holds
NONE, NO_FORECAST = "none", "no forecast"


def lines(proposals: Sequence[Proposal], checks: object) -> tuple[tuple[str, ...], ...]:
    """One for each proposal, then one for Sophia's checks (a list of notes); the cells follow `HEADERS`."""
    proposed = tuple(_line(place, entry) for place, entry in enumerate(proposals, start=1))
    found = shares(checks)
    return (*proposed, ("Sophia", _unclipped(found), *[""] * (len(HEADERS) - 2))) if found else proposed


def shares(checks: object) -> tuple[float, ...]:
    """Shares of coordinates left unclipped, midway between refreshes, without the probe's, whose rates are not the
    run's; none of anything but a list of checks."""
    entries = [one for one in checks if isinstance(one, Mapping)] if isinstance(checks, list | tuple) else []
    found = [noted(entry, "unclipped") for entry in entries if entry.get("during") != "probe"]
    return tuple(share for share in found if share is not None)


def inside(found: Sequence[float]) -> int:
    """How many shares lie in the band."""
    return sum(BAND[0] <= share <= BAND[1] for share in found)


def noted(notes: Mapping[str, Any], *names: str) -> float | None:
    """A finite number among notes, or among the notes within them; None for whatever else stands there."""
    value: Any = notes
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _line(place: int, entry: Proposal) -> tuple[str, ...]:
    cosine, warning = noted(entry.notes, "cosine"), entry.notes.get("warning")
    refused = f"refused: {entry.refused or 'the step is not finite'}"
    return (
        f"{place} {entry.phase}".strip(),
        refused if entry.step is None else _significant(entry.step),
        _significant(entry.direction_norm),
        *(NONE if entry.step is None else _change(entry, name) for name in CHANGES),
        f"{_significant(noted(entry.notes, 'damping'))}{f'; {warning}' if warning else ''}",
        NONE if cosine is None else f"{cosine:.2f}",
        f"{entry.measurements:,.0f}",
    )


def _change(entry: Proposal, name: Name) -> str:
    """By this step alone. The bend forecasts the KL from the original's weights only: later steps have no forecast."""
    measured, predicted = _of(entry.measured, name), _of(entry.predicted, name)
    if name == "retain_kl":
        before, after = entry.retain_kl.before, entry.retain_kl.after
        if before is None or after is None or abs(before) > UNMOVED * abs(after):
            predicted = None
    return f"{_signed(measured)} ({NO_FORECAST if predicted is None else f'predicted {_signed(predicted)}'})"


def _of(change: Change | None, name: Name) -> float | None:
    found = change or Change()
    return known({"forget": found.forget, "retain": found.retain, "retain_kl": found.retain_kl}[name])


def _unclipped(found: Sequence[float]) -> str:
    first, middle, last = (f"{100 * share:.0f} %" for share in (found[0], median(found), found[-1]))
    within = f"within 10 to 50 % at {inside(found)} of {len(found)} checks"
    return f"unclipped: first {first}, median {middle}, last {last}; {within}"


def _signed(value: float | None) -> str:
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def _significant(value: float | None) -> str:
    """Three digits that count, for figures of any size."""
    return NONE if value is None else f"{value:.3g}"
