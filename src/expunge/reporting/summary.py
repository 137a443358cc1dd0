"""What a reader asks first beside the verdict: what was asked for, what it was compared with, what it cost."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from expunge.reporting import tables
from expunge.reporting.words import duration, size

Record = Mapping[str, Any]
NO_TWIN = "No retrained model was measured."
TWIN = "A model retrained without these rows was measured beside it."
NO_LIMITS = "The record names no limits. That is an omission, not a finding."


@dataclass(frozen=True, slots=True)
class Fact:
    """A question in words, and its answer."""

    title: str
    text: str


def facts(record: Record) -> tuple[Fact, ...]:
    """In reading order."""
    return (
        Fact("What was asked for", _asked(record)),
        Fact("What it was compared with", _compared(record)),
        Fact("What it cost", _cost(record)),
    )


def limits(record: Record) -> tuple[str, ...]:
    """What was not tested, and what the evidence cannot show."""
    return tuple(record["limits"]) or (NO_LIMITS,)


def _asked(record: Record) -> str:
    data, method = record["data"], record["method"] or {}
    what = _rows(data.get("forget") or {}, "training row")
    verb = "To remove" if record["command"] == "unlearn" else "To judge whether a model has lost"
    keep = (data.get("retain") or {}).get("rows")
    kept = f"{keep:,} rows to keep were given" if keep else "no rows to keep were given"
    before = len((record["earlier"] or {}).get("rows") or ())
    again = f" {before:,} rows of earlier requests were judged again." if before else ""
    by = f" Method: {method['name']}." if method.get("name") else ""
    return f"{verb} {what} and keep the rest of the model; {kept}.{by}{again}"


def _rows(counts: Mapping[str, Any], name: str) -> str:
    """How many rows, and of which kinds."""
    total = counts.get("rows")
    if total is None:
        return f"{name}s"
    kinds = [(counts.get(f"{kind}s") or 0, kind) for kind in ("document", "answer")]
    parts = [f"{count:,} {kind}{'' if count == 1 else 's'}" for count, kind in kinds if count]
    return f"{total:,} {name}{'' if total == 1 else 's'}" + (f" ({', '.join(parts)})" if parts else "")


def _compared(record: Record) -> str:
    twin = TWIN if "retrained" in tables.models_of(record) else NO_TWIN
    return f"{tables.headline(record).compared_with} {twin}"


def _cost(record: Record) -> str:
    seconds, method = record["seconds"], record["method"] or {}
    parts = []
    if (own := seconds.get("unlearn")) is not None:
        passes = method.get("row_passes")
        counted = "" if passes is None else f" and {passes:,.0f} row passes (one row forward and backward)"
        parts.append(f"Unlearning took {duration(own)}{counted}.")
    if seconds:
        parts.append(f"With loading and all evidence it was {duration(sum(seconds.values()))}.")
    if record["peak_memory_bytes"]:
        parts.append(f"Memory at most: {size(record['peak_memory_bytes'])}.")
    return " ".join(parts) or "Not measured."
