"""Rows of Parquet files and of folders that `datasets.Dataset.save_to_disk` wrote, read with pyarrow alone.

Files are memory-mapped and read batch by batch; `datasets` itself is not asked, since it may write beside the rows or
into its cache. Sizes are checked before and while reading, since a small file can unpack to more than the memory.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import InputError
from expunge.files import reading

if TYPE_CHECKING:
    from pyarrow import RecordBatch, Scalar, Table

MOST_BYTES = 4 << 30  # of one set of rows, unpacked
BATCH = 256
MOST_LISTED = 20
SINGLE, MANY = "state.json", "dataset_dict.json"


def parquet(file: Path, role: str) -> Iterator[tuple[int, object]]:
    """Number and record of every row of a Parquet file. Raises `InputError`, also for one that unpacks to too much."""
    from pyarrow import parquet as format  # pyarrow takes a quarter of a second, which other formats need not pay

    reading.check_regular(file, f"the {role} file")
    with _readable(str(file), f"the {role} file"), format.ParquetFile(file, memory_map=True) as opened:
        data = opened.metadata
        size = sum(data.row_group(place).total_byte_size for place in range(data.num_row_groups))
        _check_size(str(file), size)
        # a dictionary holds a long cell once and every row of a batch anew: so many that they fit even then
        rows = max(1, min(BATCH, MOST_BYTES // (16 * max(1, size))))
        yield from records(str(file), opened.iter_batches(batch_size=rows))


def folder(path: Path, split: str) -> Iterator[tuple[int, object]]:
    """Number and record of every row of a data set that `save_to_disk` wrote, or of one split of several.

    Raises `InputError`; where splits are there and none or another one was named, it lists them.
    """
    source = f"{path}:{split}" if split else str(path)
    if (path / MANY).is_file():
        splits = _described(path / MANY, "splits")
        if split not in splits:
            listed = ", ".join(map(str, splits[:MOST_LISTED])) or "none"
            raise InputError(f"{path}: splits in this folder: {listed}. Name one of them, as {path}:SPLIT.")
        path = path / split
    elif split and (path / SINGLE).is_file():
        raise InputError(f"{path}: this folder holds one data set without splits. Name it without :{split}.")
    if not (path / SINGLE).is_file():
        raise InputError(
            f"{path}: the folder cannot be read as rows. Name a file in it, or one that save_to_disk wrote."
        )
    return _arrow(source, path, [_filename(path, entry) for entry in _described(path / SINGLE, "_data_files")])


def records(source: str, batches: Iterable["RecordBatch | Table"]) -> Iterator[tuple[int, object]]:
    """Number and record of every row of Arrow record batches or tables. Raises `InputError` beyond 4 GiB."""
    number, size = 0, 0
    for batch in batches:
        _check_size(source, batch.nbytes)
        names = batch.schema.names
        if len(set(names)) < len(names):
            raise InputError(f"{source}: two columns have the same name. Rename one of them.")
        columns = [batch.column(place) for place in range(len(names))]
        for place in range(batch.num_rows):
            number += 1
            row = {name: _cell(source, number, column[place]) for name, column in zip(names, columns, strict=True)}
            size += _weight(row)
            _check_size(source, size)
            yield number, row


def _arrow(source: str, path: Path, names: list[str]) -> Iterator[tuple[int, object]]:
    with _readable(source, "the data set"):
        for name in names:
            reading.check_regular(path / name, "the data file")
            reading.check_inside(path / name, path, "the data file")
        _check_size(source, sum((path / name).stat().st_size for name in names))
        yield from records(source, (_whole(batch) for name in names for batch in _batches(path / name)))


def _batches(file: Path) -> Iterator["RecordBatch"]:
    """Record batches of a memory-mapped Arrow file in the stream format, or in the file format of newer versions."""
    import pyarrow

    with pyarrow.memory_map(str(file)) as mapped:
        if mapped.read(6) == b"ARROW1":
            opened = pyarrow.ipc.open_file(mapped)
            yield from (opened.get_batch(place) for place in range(opened.num_record_batches))
        else:
            mapped.seek(0)
            yield from pyarrow.ipc.open_stream(mapped)


def _whole(batch: "RecordBatch") -> "RecordBatch":
    """The batch, after a look at its offsets: Arrow's reader trusts them, and wrong ones would end the process."""
    batch.validate(full=True)
    return batch


def _weight(value: object) -> int:
    """About the bytes of a value, each use of a text counted: a dictionary in a file holds it only once."""
    if isinstance(value, dict):
        return sum(len(str(key)) + _weight(part) for key, part in value.items())
    if isinstance(value, list | tuple):
        return 8 * len(value) + sum(map(_weight, value))
    return len(value) if isinstance(value, str | bytes) else 8


def _cell(source: str, number: int, cell: "Scalar") -> object:
    try:
        return cell.as_py()
    except (ValueError, OverflowError):  # text that is no UTF-8, moments beyond the calendar
        raise InputError(f"{source}, row {number}: a cell cannot be read. Columns must hold UTF-8 text.") from None


@contextlib.contextmanager
def _readable(source: str, what: str) -> Iterator[None]:
    """Turns the many errors of broken files into one `InputError` without any of their content."""
    import pyarrow

    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{source}: {what} does not exist. Check the path.") from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = (
            error.strerror if isinstance(error, OSError) and error.strerror else "broken, cut off or another format"
        )
        raise InputError(f"{source}: {what} cannot be read ({reason}). Write it anew.") from None


def _check_size(source: str, size: int) -> None:
    if size > MOST_BYTES:
        raise InputError(
            f"{source}: the rows unpack to {size / 2**30:.1f} GiB, and {MOST_BYTES >> 30} GiB is the most. "
            "Write the rows that matter to a smaller file."
        )


def _described(file: Path, key: str) -> list[object]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))[key]
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}).") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        content = None
    if not isinstance(content, list):
        raise InputError(f"{file}: not what save_to_disk writes. Save the data set anew.")
    return content


def _filename(path: Path, entry: object) -> str:
    """The name of a data file beside `state.json`; never one outside the folder."""
    name = entry.get("filename") if isinstance(entry, dict) else None
    if not isinstance(name, str) or Path(name).name != name:
        raise InputError(f"{path / SINGLE}: not what save_to_disk writes. Save the data set anew.")
    return name
