"""Where rows come from: JSONL, JSON and CSV files (also gzipped), Parquet, folders of `datasets`, and hub data sets.

`records` gives one unchecked record per row with its number; `data.rows` makes rows of them. A local path always wins:
`hub:` is only looked at where nothing of that name lies on the disk. Nothing is written anywhere but by `data.hub`.
"""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from expunge.config.commands import HUB
from expunge.data import forms, hub, tables
from expunge.errors import InputError, kind_of
from expunge.files.reading import GZIP, NotJSON, parse_json, read_text

LINED = (".jsonl", ".ndjson", ".json", ".csv")  # formats that people read line by line; in others rows are numbered
FORMATS = (*LINED, ".parquet")
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs"}  # of CSV, as spreadsheets of several countries write it
Records = Iterator[tuple[int, Any]]


def place(source: str, number: int) -> str:
    """Where a row stands, for messages: "rows.jsonl, line 3" or "rows.parquet, row 3". Numbers start at 1."""
    return f"{source}, {'line' if source.lower().removesuffix(GZIP).endswith(LINED) else 'row'} {number}"


def records(source: str, role: str) -> Records:
    """Number and record of every row of a file, a folder, a split of it (`folder:split`) or a hub data set.

    `role` is only used in messages. Raises `InputError` for what cannot be read; records may be anything.
    """
    file = Path(source)
    folder, colon, split = source.rpartition(":")
    if os.path.isdir(source):
        return tables.folder(file, "")
    if not os.path.lexists(source) and source.startswith(HUB):
        return iter(hub.records(source))
    if not os.path.lexists(source) and colon and os.path.isdir(folder):
        return tables.folder(Path(folder), split)
    packed = file.suffix.lower() == GZIP
    suffix = (file.with_suffix("") if packed else file).suffix.lower()
    if suffix not in (LINED if packed else FORMATS):
        if not os.path.lexists(source):
            raise InputError(f"{source}: the {role} rows do not exist. Check the path, or name a hub data set {HUB}...")
        raise InputError(
            f"{source}: the {role} file must end in {', '.join(FORMATS)} (all but the last also with {GZIP}), or be a "
            "folder of datasets. Convert it."
        )
    if suffix == ".parquet":
        return tables.parquet(file, role)
    text = read_text(file, f"the {role} file")
    return _csv(file, text) if suffix == ".csv" else _json(file, text, suffix == ".json")


def raw_lines(source: str, role: str) -> list[bytes] | None:
    """The lines of a file of JSON lines as they stand there, without their ends; None where rows are no lines.

    Raises `InputError` as `records` does.
    """
    if not source.lower().removesuffix(GZIP).endswith((".jsonl", ".ndjson")) or not os.path.isfile(source):
        return None
    text = read_text(source, f"the {role} file")
    return None if text.lstrip()[:1] == "[" else text.encode("utf-8").split(b"\n")


def _json(file: Path, text: str, array: bool) -> Records:
    """Rows of a JSON array, or of JSON lines, whichever the file holds; `array` is what its name promises."""
    whole = _parsed(text) if array or text.lstrip()[:1] == "[" else None
    if isinstance(whole, list) and (array or all(isinstance(row, dict) for row in whole)):
        return iter(enumerate(whole, start=1))
    if isinstance(whole, dict):
        return iter(enumerate(_rows_within(whole), start=1))
    first = next((line for line in text.split("\n") if line.strip()), "")
    if array and (not text.strip() or not isinstance(_parsed(first), dict)):
        return _broken_array(file, text)
    return _jsonl(file, text)


def _parsed(text: str) -> object:
    """None for what is no JSON."""
    try:
        return parse_json(text)
    except NotJSON:
        return None


def _rows_within(whole: dict[str, object]) -> list[object]:
    """The rows of a JSON object: the one list of objects in it, its columns side by side, or the object itself.

    Turns, columns of lists, are no rows: they stand under a name of `forms`.
    """
    lists = {key: value for key, value in whole.items() if isinstance(value, list) and key not in forms.TALKS}
    rows = [value for value in lists.values() if value and all(isinstance(one, dict) for one in value)]
    if len(rows) == 1 and len(lists) == 1 and not {*forms.TEXTS, *forms.COMPLETIONS} & whole.keys():
        return rows[0]
    columns = [_column(value) for value in whole.values()]
    if columns and all(one is not None and len(one) == len(columns[0] or ()) for one in columns):
        return [dict(zip(whole, values, strict=True)) for values in zip(*(one or () for one in columns), strict=True)]
    return [whole]


def _column(value: object) -> list[object] | None:
    """The cells of a column: a list of plain ones, or any as pandas writes them, by number; None for anything else."""
    if isinstance(value, dict) and value and all(key.isdigit() for key in value):
        return list(value.values())
    if isinstance(value, list) and not any(isinstance(one, dict | list) for one in value):
        return value
    return None


def _broken_array(file: Path, text: str) -> Records:
    """Nothing of an empty file. Raises `InputError` for any other."""
    try:
        content = parse_json(text) if text.strip() else []
    except NotJSON as error:
        where = f"{file}, line {error.line}" if error.line else str(file)
        raise InputError(f"{where}: {error}. The file must be one array of objects, or one object a line.") from None
    if content:
        raise InputError(f"{file}: expected a JSON array of objects, found {kind_of(content)}. Put rows in [ ].")
    return iter(())


def beside(source: str, name: str) -> str:
    """Rows of another name beside some: a file or folder of the same ending, a configuration of the same data set."""
    if not os.path.lexists(source) and source.startswith(HUB):
        return hub.beside(source, name)
    file = Path(source)
    return str(file.with_name(f"{name}{file.suffix}"))


def _jsonl(file: Path, text: str) -> Records:
    for line, content in enumerate(text.split("\n"), start=1):
        if content.strip():
            try:
                yield line, parse_json(content)
            except NotJSON as error:
                raise InputError(f"{file}, line {line}: {error}. Each line must be one JSON object.") from None


def _csv(file: Path, text: str) -> Records:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # documents may be longer than 131,072 characters
    header = text.lstrip().partition("\n")[0]
    mark = next((one for one in SEPARATORS if one in header), ",")
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=mark, strict=True)
    try:
        names = reader.fieldnames or ()
        if len(set(names)) < len(names):
            raise InputError(f"{file}, line 1: two columns have the same name. Rename one of them.")
        for record in reader:
            if None in record:
                remedy = f"Put cells that hold {SEPARATORS[mark]} in quotes."
                raise InputError(f"{file}, line {reader.line_num}: more cells than columns. {remedy}")
            if None in record.values():
                raise InputError(f"{file}, line {reader.line_num}: fewer cells than columns. Fill it in or remove it.")
            yield reader.line_num, record
    except csv.Error as error:
        line = reader.reader.line_num
        raise InputError(f"{file}, line {line}: not CSV ({error}). Save the file as CSV anew.") from None
