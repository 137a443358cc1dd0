"""`expunge select`: from a training file and a rule to the files of a request, in a folder that only its owner enters.

    forget.jsonl     the rows to forget           decisions.jsonl  rows that a person decides on (desk.decisions)
    retain.jsonl     the rows to keep             rows.jsonl       what became of every row, and why; no text
    holdout.jsonl    candidates, of --unseen      request.json     rule (values and names under the user's key), scope

Rows of JSON lines keep their bytes; of other formats they are written as JSON lines. The same command again takes up
the decisions. `forget.jsonl` goes first and comes last, so where it is there all files belong together, whatever was
interrupted; and decisions are replaced in one step by those that hold them all.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from expunge.config.desk import Select
from expunge.data.files import raw_lines
from expunge.data.rows import Made, each
from expunge.desk import decisions
from expunge.desk.choose import Chosen, Rule, choose, unseen
from expunge.errors import InputError
from expunge.files import hashing, plain_json, whole
from expunge.files.reading import read_json
from expunge.files.typed import plain, taken
from expunge.registry import suggestion
from expunge.reporting.entries import SelectionFile
from expunge.runs import workspace
from expunge.scoring.words import same_text

FORGET, RETAIN, HOLDOUT, ROWS, REQUEST = "forget.jsonl", "retain.jsonl", "holdout.jsonl", "rows.jsonl", "request.json"
ORDER = (decisions.NAME, REQUEST, ROWS, HOLDOUT, RETAIN, FORGET)
SAME = ("train", "unseen", "rule", "columns", "key")
SCHEMA = 1
AGAIN = "Select the rows again into another --output."
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Selected:
    """A finished selection: its folder, rows by group, and reasons by group with the number of rows."""

    output: Path
    counts: Mapping[str, int]
    reasons: Mapping[str, Mapping[str, int]]


def run(config: Select, say: Say) -> Selected:
    """Selects and writes. Raises `InputError`."""
    rule = Rule.of(config.where, config.mentions, config.mentions_file)
    secret, output = hashing.key(), Path(config.output)
    check_folder(output)
    made = list(each(config.train, "training", columns=config.columns))
    if not made:
        raise InputError(f"{config.train}: the training file holds no rows. Give it at least one.")
    asked = _asked(config, rule, made, secret)
    workspace.private(output)
    with workspace.locked(output, f"{output}: another process is writing this selection. Wait until it has ended."):
        _check_same(output, asked)
        rows = [one.row for one in made]
        decided = decisions.read(output / decisions.NAME, rows, secret)
        before = _bytes(decided.file)
        chosen = choose(made, rule, decided.by_place)
        if not any(one.group == "forget" for one in chosen):
            raise _nothing(config, made, rule)
        decided.check(chosen, rows)
        others = list(each(config.unseen, "unseen", columns=config.columns)) if config.unseen else []
        apart = unseen(others, rule, rows, chosen) if others else []
        listed = decisions.entries(rows, chosen, decided, secret, config.show_rows)
        found = _summed(output, [*chosen, *apart])
        files = _files(config, made, chosen, others, apart)
        files |= {decisions.NAME: listed, REQUEST: [_request(asked, found, decided)]}
        if _bytes(decided.file) != before:
            raise InputError(f"{decided.file}: the file changed while this ran. Give the same command again.")
        write(output, files)
    for line in lines(found, config.unseen is not None):
        say(line)
    return found


def lines(found: Selected, holdout: bool) -> Iterator[str]:
    """What was selected, in words."""
    for group, reasons in found.reasons.items():
        yield f"{group}: {found.counts[group]:,} rows"
        for reason, times in reasons.items():
            yield f"  {times:,} {reason}"
    if count := found.counts.get("undecided", 0):
        yield (
            f"{count:,} rows are undecided: they are in neither {FORGET} nor {RETAIN}. Write forget or keep in "
            f"{found.output / decisions.NAME}, then give the same command again."
        )
    if not holdout:
        yield "no holdout: training rows cannot be one. Rows of the same kind that were never trained in: --unseen FILE"


def write(folder: Path, files: Mapping[str, Iterable[bytes]]) -> None:
    """All files of the folder in place of those of before: see the module."""
    for name in ORDER:
        if name in files:
            whole.prepare(folder / name, files[name])
    for name in reversed(ORDER):
        if name != decisions.NAME:
            (folder / name).unlink(missing_ok=True)
            whole.flush(folder)
    for name in ORDER:
        if name in files:
            whole.place(folder / name)


def check_folder(output: Path) -> None:
    """Raises `InputError` for a folder that holds anything that no selection wrote."""
    if output.is_symlink() or (output.exists() and not output.is_dir()):
        raise InputError(f"{output}: this is no folder. Name another --output.")
    known = {*ORDER, *(name + whole.PART for name in ORDER), workspace.LOCK}
    if output.exists() and (others := sorted({file.name for file in output.iterdir()} - known)):
        raise InputError(f"{output}: the folder holds what no selection wrote ({others[0]}). Name another --output.")


def read_request(folder: Path) -> SelectionFile | None:
    """What a selection says of itself; None where the folder holds none. Raises `InputError` for a broken one."""
    if not (folder / REQUEST).is_file():
        return None
    content = read_json(folder / REQUEST, "the request", AGAIN)
    return taken(content, SelectionFile, str(folder / REQUEST), AGAIN)


def _asked(config: Select, rule: Rule, made: Sequence[Made], secret: bytes) -> dict[str, Any]:
    """What must be the same for decisions to hold: files, and the rule with values and names under the key."""
    where = [{"column": one.column, "value": value_hash(one.value, secret)} for one in rule.where]
    named = [{"words": len(form), "name": hashing.run_hash(form, secret)} for form in rule.names.forms]
    return {
        "train": {"file": str(Path(config.train).absolute()), "content": _content(config.train, secret)},
        "rows": len(made),
        "unseen": {"file": config.unseen, "content": _content(config.unseen, secret)} if config.unseen else None,
        "rule": {"where": where, "mentions": named},
        "columns": list(config.columns),
        "key": hashing.key_mark(secret),
    }


def value_hash(value: str, secret: bytes) -> str:
    """Keyed hash of a value, the same for all that `Condition` takes for it."""
    return hashing.keyed_hash(("value", same_text(value)), secret)


def _content(path: str, secret: bytes) -> str:
    return hashing.keyed_file_hash(Path(path), secret) if Path(path).exists() else path


def _check_same(output: Path, asked: Mapping[str, Any]) -> None:
    """Decisions of one request are never applied to another. Raises `InputError`."""
    before = read_request(output)
    told: dict[str, Any] = plain_json.plain(plain(before) if before else asked)
    changed = [name for name in SAME if told[name] != asked[name]]
    if changed:
        raise InputError(
            f"{output}: the selection there was made with another {' and '.join(changed)}. Give the same command to "
            "apply its decisions, or name another --output."
        )


def _request(asked: Mapping[str, Any], found: Selected, decided: decisions.Decisions) -> bytes:
    said = Counter(decided.by_place.values())
    content = {"schema": SCHEMA, "created": datetime.now(UTC).isoformat(timespec="seconds"), **asked}
    content |= {"counts": found.counts, "reasons": found.reasons}
    content |= {"decided": {"forget": said["forget"], "keep": said["keep"]}}
    return plain_json.as_text(content).encode()


def _files(
    config: Select, made: Sequence[Made], chosen: Sequence[Chosen], others: Sequence[Made], apart: Sequence[Chosen]
) -> dict[str, Iterable[bytes]]:
    raw = raw_lines(config.train, "training")
    files: dict[str, Iterable[bytes]] = {
        name: _lines_of(made, chosen, group, raw) for name, group in ((FORGET, "forget"), (RETAIN, "retain"))
    }
    if any(one.group == "holdout" for one in apart):
        assert config.unseen
        files[HOLDOUT] = _lines_of(others, apart, "holdout", raw_lines(config.unseen, "unseen"))
    files[ROWS] = (_told(one, what) for one, what in zip((*made, *others), (*chosen, *apart), strict=True))
    return files


def _lines_of(
    made: Sequence[Made], chosen: Sequence[Chosen], group: str, raw: Sequence[bytes] | None
) -> Iterator[bytes]:
    for one, what in zip(made, chosen, strict=True):
        if what.group == group:
            yield original(one, raw) + b"\n"


def original(made: Made, raw: Sequence[bytes] | None) -> bytes:
    """The line of a row as it stood in its file, or its record as a line of JSON."""
    if raw is not None:
        return raw[made.row.line - 1]
    return json.dumps(made.record, ensure_ascii=False, default=str).encode("utf-8", "backslashreplace")


def _told(made: Made, chosen: Chosen) -> bytes:
    entry = {
        "file": made.row.file,
        "line": made.row.line,
        "set": chosen.group,
        "reasons": list(map(str, chosen.reasons)),
    }
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _summed(output: Path, chosen: Sequence[Chosen]) -> Selected:
    """Rows by group and by the kind of their first reason."""
    counts: Counter[str] = Counter(one.group for one in chosen)
    reasons = {group: Counter(one.reasons[0].in_general for one in chosen if one.group == group) for group in counts}
    return Selected(output, dict(counts), {group: dict(some.most_common()) for group, some in reasons.items()})


def _nothing(config: Select, made: Sequence[Made], rule: Rule) -> InputError:
    """Why no row is to be forgotten: a column that is nowhere, or values that no row has."""
    columns = sorted({str(key) for one in made[:1000] if isinstance(one.record, dict) for key in one.record})
    for condition in rule.where:
        if condition.column.partition(".")[0] not in columns and condition.column not in columns:
            hint = suggestion(condition.column, columns)
            return InputError(f"{config.train}: no row has the column {condition.column!r}{hint}")
    return InputError(f"{config.train}: no row is what was asked for, so there is nothing to forget. Check the values.")


def _bytes(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""
