"""Where rows come from: JSONL, JSON, CSV and Parquet files, folders that `datasets` wrote, and hub data sets.

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
from expunge.data import hub, tables
from expunge.errors import InputError
from expunge.files.reading import NotJSON, parse_json, read_text

LINED = (".jsonl", ".json", ".csv")  # formats that people read line by line; in all others rows are numbered
FORMATS = (*LINED, ".parquet")
Records = Iterator[tuple[int, Any]]


def place(source: str, number: int) -> str:
    """Where a row stands, for messages: "rows.jsonl, line 3" or "rows.parquet, row 3". Numbers start at 1."""
    return f"{source}, {'line' if source.lower().endswith(LINED) else 'row'} {number}"


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
    suffix = file.suffix.lower()
    if suffix not in FORMATS:
        if not os.path.lexists(source):
            raise InputError(f"{source}: the {role} rows do not exist. Check the path, or name a hub data set {HUB}...")
        raise InputError(
            f"{source}: the {role} file must end in {', '.join(FORMATS)}, or be a folder of datasets. Convert it."
        )
    if suffix == ".parquet":
        return tables.parquet(file, role)
    return {".jsonl": _jsonl, ".json": _json, ".csv": _csv}[suffix](file, read_text(file, f"the {role} file"))


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


def _json(file: Path, text: str) -> Records:
    try:
        content = parse_json(text) if text.strip() else []
    except NotJSON as error:
        if _lined(text):
            yield from _jsonl(file, text)
            return
        where = f"{file}, line {error.line}" if error.line else str(file)
        raise InputError(f"{where}: {error}. The file must be one array of flat objects.") from None
    if not isinstance(content, list):
        raise InputError(
            f"{file}: expected a JSON array of objects, found {type(content).__name__}. Put the rows in [ ], or write "
            "one a line to a .jsonl file."
        )
    yield from enumerate(content, start=1)


def _lined(text: str) -> bool:
    """Whether the text of a .json file is JSON lines, as data sets of the hub often are."""
    try:
        return isinstance(parse_json(text.lstrip().split("\n", 1)[0]), dict)
    except NotJSON:
        return False


def _csv(file: Path, text: str) -> Records:
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))  # documents may be longer than 131,072 characters
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    try:
        names = reader.fieldnames or ()
        if len(set(names)) < len(names):
            raise InputError(f"{file}, line 1: two columns have the same name. Rename one of them.")
        for record in reader:
            if None in record:
                remedy = "Put cells that hold commas in quotes."
                raise InputError(f"{file}, line {reader.line_num}: more cells than columns. {remedy}")
            if None in record.values():
                raise InputError(f"{file}, line {reader.line_num}: fewer cells than columns. Fill it in or remove it.")
            yield reader.line_num, record
    except csv.Error as error:
        line = reader.reader.line_num
        raise InputError(f"{file}, line {line}: not CSV ({error}). Save the file as CSV anew.") from None
