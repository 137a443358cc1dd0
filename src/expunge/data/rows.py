"""Reading rows from JSONL, JSON and CSV files, and checking them before any model is loaded.

A row is a *document* (`text`: every token counts) or an *answer* (`prompt` and `completion`; `input`+`output` and
`question`+`answer` are accepted names). Every message names the file and the line, says what was expected, and holds
no text of the row: errors are redacted like everything else.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.errors import InputError

Kind = Literal["document", "answer"]
SHAPES: tuple[tuple[str, ...], ...] = (("text",), ("prompt", "completion"), ("input", "output"), ("question", "answer"))
METADATA = ("id", "task")
FORMATS = (".jsonl", ".json", ".csv")
KNOWN = "text | prompt + completion | input + output | question + answer, and optionally " + ", ".join(METADATA)


@dataclass(frozen=True, slots=True)
class Row:
    """One checked row. `line` is 1-based; in a JSON array it is the number of the element. `task` groups scores.

    `cut`: the character of a document at which its scored continuation starts; 0: half of its words. `messages`: the
    turns (role, content) of a conversation, of which `completion` is the last.
    """

    file: str
    line: int
    kind: Kind
    prompt: str
    completion: str
    task: str = ""
    cut: int = 0
    messages: tuple[tuple[str, str], ...] = ()

    @property
    def content(self) -> tuple[str, str]:
        """What makes two rows the same row, whatever file they stand in and however they are spaced at the ends."""
        return self.prompt.strip(), self.completion.strip()

    @property
    def name(self) -> str:
        return f"{Path(self.file).name}:{self.line}"

    def digest(self, salt: str) -> bytes:
        """Hash used to split and order rows; never written anywhere, since short secrets could be enumerated."""
        return hashlib.sha256("\0".join((salt, *self.content)).encode()).digest()


MakeRow = Callable[[Path, int, Any], Row]
"""From file, line and record to a checked row. Raises `InputError`."""


@dataclass(frozen=True, slots=True)
class RowSet:
    """The distinct rows of one file, in file order, and how many duplicates were merged."""

    rows: tuple[Row, ...]
    duplicates: int = 0

    def __len__(self) -> int:
        return len(self.rows)


def read(path: str | Path, role: str, make_row: MakeRow | None = None) -> RowSet:
    """Reads and checks one file of rows. `role` ("forget", "retain", ...) is only used in messages.

    `make_row` turns a record into a row where a benchmark has columns of its own; None: the known forms.

    Raises `InputError`: missing or empty file, unknown extension, bad encoding, broken line, unknown columns, empty
    or non-text fields.
    """
    file = Path(path)
    text = _text(file, role)
    records = {".jsonl": _jsonl, ".json": _json, ".csv": _csv}[file.suffix.lower()](file, text)
    distinct: dict[tuple[str, str], Row] = {}
    count = 0
    for line, record in records:
        row = (make_row or _row)(file, line, record)
        distinct.setdefault(row.content, row)
        count += 1
    if not distinct:
        raise InputError(f"{file}: the {role} file holds no rows. Give it at least one ({KNOWN}).")
    return RowSet(tuple(distinct.values()), count - len(distinct))


def check_disjoint(forget: RowSet, other: RowSet, role: str) -> None:
    """Raises `InputError` where a row to forget stands in the other set too, naming both places."""
    places = {row.content: row for row in other.rows}
    both = [(row, places[row.content]) for row in forget.rows if row.content in places]
    if both:
        first, twin = both[0]
        raise InputError(
            f"{first.file}, line {first.line}: this row is also in the {role} set ({twin.file}, line {twin.line}); "
            f"{len(both)} row(s) are in both. Remove them from one of the two files."
        )


def without(rows: RowSet, removed: RowSet) -> tuple[Row, ...]:
    """The rows of the first set that are not in the second, matched by content."""
    gone = {row.content for row in removed.rows}
    return tuple(row for row in rows.rows if row.content not in gone)


def _text(file: Path, role: str) -> str:
    if file.suffix.lower() not in FORMATS:
        raise InputError(f"{file}: the {role} file must end in {', '.join(FORMATS)}.")
    try:
        raw = file.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{file}: the {role} file does not exist. Check the path.") from None
    except OSError as error:
        raise InputError(f"{file}: the {role} file cannot be read ({error.strerror}).") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}, line {line}: not UTF-8. Save the file as UTF-8.") from None


def _jsonl(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                yield line, json.loads(content)
            except (ValueError, RecursionError):  # also integers of over 4300 digits
                raise InputError(f"{file}, line {line}: not JSON. Each line must be one JSON object.") from None


def _json(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    try:
        content = json.loads(text) if text.strip() else []
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise InputError(f"{file}, line {line}: not JSON. The file must be one array of objects.") from None
    except RecursionError:
        raise InputError(f"{file}: nested too deeply. The file must be one array of flat objects.") from None
    if not isinstance(content, list):
        raise InputError(f"{file}: expected a JSON array of objects, found {type(content).__name__}.")
    yield from enumerate(content, start=1)


def _csv(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # documents may be longer than 131,072 characters
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True, restkey="(more cells than columns)")
    try:
        for record in reader:
            if None in record.values():
                raise InputError(f"{file}, line {reader.line_num}: fewer cells than the header has columns.")
            yield reader.line_num, record
    except csv.Error as error:
        raise InputError(f"{file}, line {reader.reader.line_num}: not CSV ({error}).") from None


def _row(file: Path, line: int, record: Any) -> Row:
    where = f"{file}, line {line}"
    if not isinstance(record, dict):
        raise InputError(f"{where}: expected an object with named columns, found {type(record).__name__}.")
    columns = [str(column) for column in record]
    shape = next((shape for shape in SHAPES if set(shape) == set(columns) - set(METADATA)), None)
    if shape is None:
        listed = ", ".join(map(_shown, columns[:8])) or "none"
        raise InputError(f"{where}: columns {listed} do not make a row. Known: {KNOWN}.")
    for column in shape:
        value = record[column]
        if not isinstance(value, str):
            raise InputError(f"{where}: column {column!r} must be text, found {type(value).__name__}.")
        if not value.strip() and (column == shape[-1]):
            raise InputError(
                f"{where}: column {column!r} is empty, so there is nothing to forget or keep. Remove the row."
            )
        _check_text(where, column, value)
    _check_text(where, "task", str(record.get("task") or ""))
    prompt = "" if shape == ("text",) else record[shape[0]]
    completion = record[shape[-1]]
    kind: Kind = "document" if shape == ("text",) else "answer"
    return Row(str(file), line, kind, prompt, completion, str(record.get("task") or ""))


def _shown(column: str) -> str:
    """A column's name, unless it may be text of a row (a CSV without a header)."""
    return repr(column) if re.fullmatch(r"[a-z_]{1,20}", column) or column.startswith("(more") else "(not a name)"


def _check_text(where: str, column: str, value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(f"{where}: column {column!r} holds half a surrogate pair, which is no text.") from None


def count_kinds(rows: Sequence[Row]) -> dict[str, int]:
    """Number of rows per kind, for plans and records."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row.kind] = counts.get(row.kind, 0) + 1
    return counts
