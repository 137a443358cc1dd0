"""What a method proposed, as the lines of one table: steps taken or refused, measured and predicted changes, Sophia.

From the entries as `propose` and `curvature_refresh` write them. Of an entry only the figures named here are taken, and
the words of its phase, refusal and warning. Changes are in nats per token.
"""

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from expunge.reporting.words import number

Entries = Sequence[Mapping[str, Any]]
TITLE = "Proposed steps and what Sophia left unclipped"
HEADERS = (
    *("Proposal", "Step", "Norm of the direction", "Change of forget loss", "Change of retain loss"),
    *("Change of retain KL", "Damping", "Cosine", "Measurements"),
)
CHANGES = ("forget", "retain", "retain_kl")
BAND = (0.1, 0.5)  # of the coordinates, unclipped: what Sophia's paper asks for (2305.14342)
UNMOVED = 0.01  # share of the retain KL reached: with less than that before the step, the forecast of it holds
NONE, NO_FORECAST = "none", "no forecast"


def lines(proposals: Entries | None, sophia: Entries | None) -> tuple[tuple[str, ...], ...]:
    """One for each proposal, then one for Sophia's checks; the cells follow `HEADERS`."""
    proposed = tuple(_line(place, entry) for place, entry in enumerate(proposals or (), start=1))
    found = shares(sophia)
    return (*proposed, ("Sophia", _unclipped(found), *[""] * (len(HEADERS) - 2))) if found else proposed


def shares(sophia: Entries | None) -> tuple[float, ...]:
    """Shares of coordinates left unclipped, midway between refreshes, without the probe's, whose rates are not the
    run's."""
    found = [figure(entry.get("unclipped")) for entry in sophia or () if entry.get("during") != "probe"]
    return tuple(share for share in found if share is not None)


def inside(found: Sequence[float]) -> int:
    """How many shares lie in the band."""
    return sum(BAND[0] <= share <= BAND[1] for share in found)


def figure(value: Any) -> float | None:
    """A finite number, or None for whatever else an entry holds there."""
    known = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if known else None


def _line(place: int, entry: Mapping[str, Any]) -> tuple[str, ...]:
    notes, step = entry.get("notes") or {}, figure(entry.get("step"))
    cosine, count = figure(notes.get("cosine")), figure(entry.get("measurements"))
    refused = f"refused: {entry.get('refused') or 'the step is not finite'}"
    warning = f"; {notes['warning']}" if notes.get("warning") else ""
    return (
        f"{place} {entry.get('phase') or ''}".strip(),
        refused if step is None else _significant(step),
        _significant(entry.get("direction_norm")),
        *(NONE if step is None else _change(entry, name) for name in CHANGES),
        f"{_significant(notes.get('damping'))}{warning}",
        NONE if cosine is None else f"{cosine:.2f}",
        NONE if count is None else f"{count:,.0f}",
    )


def _change(entry: Mapping[str, Any], name: str) -> str:
    """By this step alone. The bend forecasts the KL from the original's weights only: later steps have no forecast."""
    measured, predicted = (figure((entry.get(part) or {}).get(name)) for part in ("measured", "predicted"))
    if name == "retain_kl":
        before, after = (figure((entry.get(name) or {}).get(when)) for when in ("before", "after"))
        if before is None or after is None or abs(before) > UNMOVED * abs(after):
            predicted = None
    return f"{_signed(measured)} ({NO_FORECAST if predicted is None else f'predicted {_signed(predicted)}'})"


def _unclipped(found: Sequence[float]) -> str:
    first, middle, last = (f"{100 * share:.0f} %" for share in (found[0], median(found), found[-1]))
    within = f"within 10 to 50 % at {inside(found)} of {len(found)} checks"
    return f"unclipped: first {first}, median {middle}, last {last}; {within}"


def _signed(value: float | None) -> str:
    return f"+{number(value)}" if value is not None and value > 0 else number(value)


def _significant(value: Any) -> str:
    """Three digits that count, for figures of any size."""
    found = figure(value)
    return NONE if found is None else f"{found:.3g}"
