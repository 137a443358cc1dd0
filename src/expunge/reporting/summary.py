"""What a reader asks first beside the verdict: what was asked for, what it was compared with, what it cost."""

from dataclasses import dataclass

from expunge.reporting import tables
from expunge.reporting.record import Counts, Record
from expunge.reporting.words import duration, size

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
    return record.limits or (NO_LIMITS,)


def _asked(record: Record) -> str:
    what = _rows(record.data.get("forget"), "training row")
    verb = "To remove" if record.command == "unlearn" else "To judge whether a model has lost"
    retain = record.data.get("retain")
    kept = f"{retain.rows:,} rows to keep were given" if retain and retain.rows else "no rows to keep were given"
    before = len(record.earlier.rows) if record.earlier else 0
    again = f" {before:,} rows of earlier requests were judged again." if before else ""
    by = f" Method: {record.method.name}." if record.method and record.method.name else ""
    return f"{verb} {what} and keep the rest of the model; {kept}.{by}{again}"


def _rows(counts: Counts | None, name: str) -> str:
    """How many rows, and of which kinds."""
    if counts is None:
        return f"{name}s"
    kinds = ((counts.documents, "document"), (counts.answers, "answer"))
    parts = [f"{count:,} {kind}{'' if count == 1 else 's'}" for count, kind in kinds if count]
    return f"{counts.rows:,} {name}{'' if counts.rows == 1 else 's'}" + (f" ({', '.join(parts)})" if parts else "")


def _compared(record: Record) -> str:
    twin = TWIN if "retrained" in tables.models_of(record) else NO_TWIN
    return f"{tables.headline(record).compared_with} {twin}"


def _cost(record: Record) -> str:
    seconds, parts = record.seconds, []
    if (own := seconds.get("unlearn")) is not None:
        passes = (
            f" and {record.method.row_passes:,.0f} row passes (one row forward and backward)" if record.method else ""
        )
        parts.append(f"Unlearning took {duration(own)}{passes}.")
    if seconds:
        parts.append(f"With loading and all evidence it was {duration(sum(seconds.values()))}.")
    if record.interruptions and seconds:
        parts.append("The run was interrupted: these times are those of its last part.")
    if record.peak_memory_bytes:
        parts.append(f"Memory at most: {size(record.peak_memory_bytes)}.")
    return " ".join(parts) or "Not measured."
