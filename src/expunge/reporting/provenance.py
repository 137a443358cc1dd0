"""What was run, on what, and how long it took: the part of a record that lets somebody repeat the run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from expunge.reporting import proposals
from expunge.reporting.words import SETS, duration, number, plain, size

Record = Mapping[str, Any]
COUNTS = ("rows", "documents", "answers", "windows", "tokens", "duplicates")


@dataclass(frozen=True, slots=True)
class Table:
    """A plain table; the first column names the line. `wide` tables need the full width of a page."""

    title: str
    headers: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    wide: bool = False


def tables(record: Record) -> tuple[Table, ...]:
    """In reading order; a stage that did not run leaves no table."""
    found = (
        _run(record),
        pairs("Time per stage", {stage: duration(time) for stage, time in record["seconds"].items()}),
        pairs("The served model", record.get("served"), wide=True),
        _parent(record["parent"]),
        _earlier(record["earlier"]),
        _holders(record["holders"]),
        _method(record["method"]),
        _attempts(record["method"]),
        _notes(record["method"]),
        _proposed(record["method"]),
        pairs("Options of the method", (record["method"] or {}).get("options")),
        pairs("Learning rate probe", (record["method"] or {}).get("probe")),
        _data(record["data"]),
        _rendering(record["rendering"]),
        pairs("Weights as written", record["save"]),
        pairs("Hashes", record["hashes"], wide=True),
        pairs("Versions", record["versions"]),
        pairs("Configuration", record["config"], wide=True),
    )
    return tuple(table for table in found if table is not None and table.lines)


def pairs(title: str, values: Mapping[str, Any] | None, wide: bool = False) -> Table | None:
    """A table of names and values; None where there are none."""
    if not values:
        return None
    return Table(title, ("Name", "Value"), _flat(values), wide)


def _flat(values: Mapping[str, Any], prefix: str = "") -> tuple[tuple[str, ...], ...]:
    """Nested mappings become dotted names."""
    lines: list[tuple[str, ...]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            lines.extend(_flat(value, f"{prefix}{name}."))
        else:
            lines.append((f"{prefix}{name}", "none" if value == {} else plain(value)))
    return tuple(lines)


def _run(record: Record) -> Table | None:
    values = {
        "command": record["command"],
        "created": record["created"],
        "machine": record["machine"],
        "time in all": duration(sum(record["seconds"].values())) if record["seconds"] else None,
        "peak memory": size(record["peak_memory_bytes"]),
    }
    if count := record["interruptions"]:
        values["interrupted"] = f"{count} time{'s' if count > 1 else ''}; times and memory are those of the last part"
    return pairs("Run", values)


def _parent(parent: Mapping[str, Any] | None) -> Table | None:
    """The run that made the model which this one began with."""
    if not parent:
        return None
    same = {True: "yes", False: "no", None: "not recorded"}
    values = {
        "output of that run": parent["path"],
        "SHA-256 of its record": parent["record"],
        "created": parent["created"],
        "its weights are those it wrote": same[parent["same_weights"]],
        "its row hashes are under the same key": same[parent["same_key"]],
        "rows that it and earlier runs served": len(parent["served"]),
        "of these, asked for again": len(parent["served_again"]),
        "of these, not given to be judged again": len(parent["missing"]),
    }
    return pairs("The run before", values, wide=True)


def _earlier(earlier: Mapping[str, Any] | None) -> Table | None:
    """Rows of earlier requests, one by one: the losses of the model that first held them, of this run's, and now."""
    if not earlier:
        return None
    lines = []
    for row in earlier["rows"]:
        losses = [number(row["loss"].get(model)) for model in ("first", "original", "unlearned", "retrained")]
        back = "came back: " if row["id"] in earlier["came_back"] else ""
        lines.append((f"{row['name']} {row['id']}", f"{back}{row['verdict']}", row["reason"], *losses))
    headers = ("Row", "Verdict", "Reason", "Loss at first", "Loss before", "Loss now", "Loss retrained")
    return Table("Rows of earlier requests", headers, tuple(lines), wide=True)


def _holders(holders: Iterable[Mapping[str, Any]]) -> Table:
    """What the run could not touch, and what it left."""
    lines = tuple((plain(one["what"]), plain(one["where"])) for one in holders)
    return Table("What still holds the rows", ("What", "Where"), lines, wide=True)


def _method(method: Mapping[str, Any] | None) -> Table | None:
    if not method:
        return None
    return pairs(
        "Method",
        {
            "name": method.get("name"),
            "learning rate": method.get("learning_rate") or None,  # 0: nothing was trained step by step
            "steps": method.get("steps"),
            "stopped because": method.get("stopped"),
        },
    )


def _notes(method: Mapping[str, Any] | None) -> Table | None:
    """Without lists of checks, which are a line among the proposals."""
    notes = (method or {}).get("notes") or {}
    return pairs("Notes of the method", {name: value for name, value in notes.items() if name != "sophia"})


def _proposed(method: Mapping[str, Any] | None) -> Table | None:
    if not method:
        return None
    lines = proposals.lines(method.get("proposals"), (method.get("notes") or {}).get("sophia"))
    return Table(proposals.TITLE, proposals.HEADERS, lines, wide=True)


def _attempts(method: Mapping[str, Any] | None) -> Table | None:
    attempts = (method or {}).get("attempts") or ()
    lines = tuple(
        (str(place), plain(attempt.get("learning_rate")), plain(attempt.get("steps")), plain(attempt.get("outcome")))
        for place, attempt in enumerate(attempts, 1)
    )
    return Table("Attempts", ("Attempt", "Learning rate", "Steps", "Outcome"), lines)


def _data(data: Mapping[str, Any]) -> Table:
    names = [name for name in SETS if name in data] + [name for name in data if name not in SETS]
    lines = tuple((name, *(plain((data[name] or {}).get(count, 0)) for count in COUNTS)) for name in names)
    return Table("Data", ("Set", *(count.capitalize() for count in COUNTS)), lines, wide=True)


def _rendering(rendering: Mapping[str, Any] | None) -> Table | None:
    if not rendering:
        return None
    values = dict(rendering)
    losses = values.pop("losses", None) or {}
    tried = {f"loss when joined by {join}": number(loss) for join, loss in losses.items()}
    return pairs("How rows were turned into tokens", {**values, **tried})


def subspace_sentence(record: Record) -> str:
    """Which parameters could move, in a sentence; empty where nothing was trained."""
    subspace = record["subspace"]
    if not subspace:
        return ""
    parameters, of = subspace.get("parameters"), subspace.get("of")
    share = f" ({parameters:,} of {of:,}, {parameters / of:.2%})" if parameters is not None and of else ""
    reason = f": {subspace['reason']}" if subspace.get("reason") else ""
    return f"Parameters that could move: {subspace.get('name')}{share}{reason}."
