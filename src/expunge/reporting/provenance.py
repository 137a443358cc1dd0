"""What was run, on what, and how long it took: the part of a record that lets somebody repeat the run."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from expunge.files.typed import plain as as_json
from expunge.reporting import proposals
from expunge.reporting.finding import Earlier
from expunge.reporting.record import Counts, Holder, Method, Parent, Record, Rendering
from expunge.reporting.words import SETS, duration, number, plain, size


@dataclass(frozen=True, slots=True)
class Table:
    """A plain table; the first column names the line. `wide` tables need the full width of a page."""

    title: str
    headers: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    wide: bool = False


def tables(record: Record) -> tuple[Table, ...]:
    """In reading order; a stage that did not run leaves no table."""
    method = record.method
    found = (
        _run(record),
        pairs("Time per stage", {stage: duration(time) for stage, time in record.seconds.items()}),
        pairs("The served model", as_json(record.answered), wide=True) if record.answered else None,
        _parent(record.parent) if record.parent else None,
        _earlier(record.earlier) if record.earlier else None,
        _holders(record.holders),
        *(_method(method) if method else ()),
        _data(record.data),
        _rendering(record.rendering),
        pairs("Weights as written", as_json(record.save) if record.save else None),
        pairs("Hashes", record.hashes, wide=True),
        pairs("Versions", record.versions),
        pairs("Configuration", record.config, wide=True),
    )
    return tuple(table for table in found if table is not None and table.lines)


def pairs(title: str, values: Mapping[str, object] | None, wide: bool = False) -> Table | None:
    """A table of names and values; None where there are none."""
    if not values:
        return None
    return Table(title, ("Name", "Value"), _flat(values), wide)


def _flat(values: Mapping[str, object], prefix: str = "") -> tuple[tuple[str, ...], ...]:
    """Nested mappings become dotted names."""
    lines: list[tuple[str, ...]] = []
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            lines.extend(_flat(value, f"{prefix}{name}."))
        else:
            lines.append((f"{prefix}{name}", "none" if value == {} else plain(value)))
    return tuple(lines)


def _run(record: Record) -> Table | None:
    values: dict[str, object] = {
        "command": record.command,
        "created": record.created,
        "machine": record.machine,
        "time in all": duration(sum(record.seconds.values())) if record.seconds else None,
        "peak memory": size(record.peak_memory_bytes),
    }
    if count := record.interruptions:
        values["interrupted"] = f"{count} time{'s' if count > 1 else ''}; times and memory are those of the last part"
    return pairs("Run", values)


def _parent(parent: Parent) -> Table | None:
    """The run that made the model which this one began with."""
    same = {True: "yes", False: "no", None: "not recorded"}
    values = {
        "output of that run": parent.path,
        "SHA-256 of its record": parent.record,
        "created": parent.created,
        "its weights are those it wrote": same[parent.same_weights],
        "its row hashes are under the same key": same[parent.same_key],
        "rows that it and earlier runs served": len(parent.served),
        "of these, asked for again": len(parent.served_again),
        "of these, not given to be judged again": len(parent.missing),
    }
    return pairs("The run before", values, wide=True)


def _earlier(earlier: Earlier) -> Table:
    """Rows of earlier requests, one by one: the losses of the model that first held them, of this run's, and now."""
    lines = []
    for row in earlier.rows:
        losses = [number(row.loss.get(model)) for model in ("first", "original", "unlearned", "retrained")]
        back = "came back: " if row.id in earlier.came_back else ""
        lines.append((f"{row.name} {row.id}", f"{back}{row.verdict}", row.reason, *losses))
    headers = ("Row", "Verdict", "Reason", "Loss at first", "Loss before", "Loss now", "Loss retrained")
    return Table("Rows of earlier requests", headers, tuple(lines), wide=True)


def _holders(holders: Iterable[Holder]) -> Table:
    """What the run could not touch, and what it left."""
    lines = tuple((plain(one.what), plain(one.where)) for one in holders)
    return Table("What still holds the rows", ("What", "Where"), lines, wide=True)


def _method(method: Method) -> tuple[Table | None, ...]:
    """What was run, and how it went. The notes are without lists of checks, which are a line among the proposals."""
    run = {
        "name": method.name,
        "learning rate": method.learning_rate or None,  # 0: nothing was trained step by step
        "steps": method.steps,
        "stopped because": method.stopped,
    }
    attempts = tuple(
        (str(place), plain(one.learning_rate), plain(one.steps), one.outcome)
        for place, one in enumerate(method.attempts, 1)
    )
    proposed = proposals.lines(method.proposals, method.notes.get("sophia"))
    return (
        pairs("Method", run),
        Table("Attempts", ("Attempt", "Learning rate", "Steps", "Outcome"), attempts),
        pairs("Notes of the method", {name: value for name, value in method.notes.items() if name != "sophia"}),
        Table(proposals.TITLE, proposals.HEADERS, proposed, wide=True),
        pairs("Options of the method", method.options),
        pairs("Learning rate probe", method.probe),
    )


def _data(data: Mapping[str, Counts]) -> Table:
    names = [name for name in SETS if name in data] + [name for name in data if name not in SETS]
    lines = tuple((name, *map(plain, as_json(data[name]).values())) for name in names)
    return Table("Data", ("Set", *(count.capitalize() for count in Counts.__struct_fields__)), lines, wide=True)


def _rendering(rendering: Rendering) -> Table | None:
    values = as_json(rendering)
    del values["losses"]
    tried = {f"loss by {form}": number(loss) for form, loss in rendering.losses.items()}
    return pairs("How rows were turned into tokens", values | tried)


def subspace_sentence(record: Record) -> str:
    """Which parameters could move, in a sentence; empty where nothing was trained."""
    if not (found := record.subspace):
        return ""
    share = f" ({found.parameters:,} of {found.of:,}, {found.parameters / found.of:.2%})" if found.of else ""
    reason = f": {found.reason}" if found.reason else ""
    return f"Parameters that could move: {found.name}{share}{reason}."
