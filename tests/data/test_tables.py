"""Parquet files and folders of `datasets`: read as the same rows in JSONL are, and refused with file and row."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import parquet

from expunge.data import tables
from expunge.data.rows import read
from expunge.errors import InputError

TURNS = [{"role": "user", "content": "zq7 who?"}, {"role": "assistant", "content": "zq7 secret"}]
RECORDS: dict[str, list[dict[str, Any]]] = {
    "documents": [{"text": f"zq7 secret {n}", "task": "one", "id": n} for n in range(700)],
    "answers": [{"question": f"q {n}", "answer": "é\n" * n + "a"} for n in range(5)],
    "conversations": [{"messages": TURNS, "id": str(n)} for n in range(2)] + [{"messages": TURNS * 2, "id": "2"}],
}
Writing = Callable[[Path, list[dict[str, Any]]], str]


def as_parquet(folder: Path, records: list[dict[str, Any]]) -> str:
    parquet.write_table(pyarrow.Table.from_pylist(records), folder / "rows.parquet", row_group_size=100)
    return str(folder / "rows.parquet")


def as_folder(folder: Path, records: list[dict[str, Any]]) -> str:
    datasets.Dataset.from_list(records).save_to_disk(folder / "rows", num_shards=3 if len(records) > 3 else 1)
    return str(folder / "rows")


def as_split(folder: Path, records: list[dict[str, Any]]) -> str:
    made = datasets.Dataset.from_list(records)
    datasets.DatasetDict({"train": made.select([0]), "gone": made}).save_to_disk(folder / "rows")
    return f"{folder / 'rows'}:gone"


def as_arrow_file(folder: Path, records: list[dict[str, Any]]) -> str:
    """The layout of save_to_disk around Arrow's file format, which readers must tell from its stream format."""
    table = pyarrow.Table.from_pylist(records)
    (folder / "rows").mkdir()
    with pyarrow.ipc.new_file(str(folder / "rows" / "data.arrow"), table.schema) as writer:
        writer.write_table(table, max_chunksize=64)
    (folder / "rows" / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    return str(folder / "rows")


WRITERS = [as_parquet, as_folder, as_split, as_arrow_file]


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(file): (file.stat().st_size, file.stat().st_mtime_ns) for file in folder.rglob("*")}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("kind", RECORDS)
def test_rows_are_those_of_a_text_file(tmp_path: Path, kind: str, write: Writing) -> None:
    lines = tmp_path / "rows.jsonl"
    lines.write_text("".join(json.dumps(record) + "\n" for record in RECORDS[kind]))
    source = write(tmp_path, RECORDS[kind])
    before = listing(tmp_path)
    found, wanted = read(source, "forget"), read(lines, "forget")
    assert listing(tmp_path) == before  # nothing is written beside the rows
    assert found.duplicates == wanted.duplicates
    assert [(row.line, row.kind, row.content, row.task, row.messages) for row in found.rows] == [
        (row.line, row.kind, row.content, row.task, row.messages) for row in wanted.rows
    ]
    assert found.rows[0].name == f"{Path(source).name}:1" and found.rows[0].place == f"{source}, row 1"


def test_folders_are_read_without_datasets_and_its_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = as_folder(tmp_path, RECORDS["documents"])
    monkeypatch.setattr(datasets, "load_from_disk", None)
    monkeypatch.setattr(datasets.Dataset, "load_from_disk", None)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    assert len(read(source, "forget")) == 700
    assert not (tmp_path / "cache").exists()


def complaint(source: str | Path) -> str:
    with pytest.raises(InputError) as caught:
        read(source, "forget")
    message = str(caught.value)
    assert str(source).rpartition(":")[0] in message or str(source) in message
    assert "zq7" not in message and "secret" not in message
    return message


WRONG: dict[str, tuple[list[dict[str, Any]], str]] = {
    "null": ([{"text": "a"}, {"text": None}], "row 2: column 'text' must be text, found null"),
    "number": ([{"prompt": "zq7 secret", "completion": 5}], "row 1: column 'completion' must be text, found int"),
    "bytes": ([{"text": b"zq7 secret"}], "row 1: column 'text' must be text, found bytes"),
    "columns": ([{"sentence": "zq7 secret"}], "row 1: columns 'sentence' do not make a row"),
    "empty": ([{"text": "a"}, {"text": " "}], "row 2: column 'text' is empty"),
    "far": ([{"text": f"a {n}"} for n in range(600)] + [{"text": ""}], "row 601: column 'text' is empty"),
    "null turn": ([{"messages": TURNS}, {"messages": [None]}], "row 2: column 'messages', turn 1: expected an object"),
    "null role": (
        [{"messages": [{"role": None, "content": "zq7"}]}],
        "row 1: column 'messages', turn 1: keys 'content', expected",
    ),
}


@pytest.mark.parametrize("write", WRITERS)
@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_cells_are_named_and_redacted(tmp_path: Path, case: str, write: Writing) -> None:
    records, words = WRONG[case]
    source = write(tmp_path, records)
    assert f"{source}, {words}" in complaint(source)


def test_cells_that_are_no_text(tmp_path: Path) -> None:
    cells = pyarrow.array([b"fine", b"zq7 \xff"]).view(pyarrow.string())
    parquet.write_table(pyarrow.table({"text": cells}), tmp_path / "r.parquet")
    assert "row 2: a cell cannot be read" in complaint(tmp_path / "r.parquet")


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    cells = pyarrow.array(["zq7 a"])
    parquet.write_table(pyarrow.Table.from_arrays([cells, cells], names=["text", "text"]), tmp_path / "r.parquet")
    assert "two columns" in complaint(tmp_path / "r.parquet")


def test_no_rows(tmp_path: Path) -> None:
    parquet.write_table(pyarrow.table({"text": pyarrow.array([], pyarrow.string())}), tmp_path / "r.parquet")
    assert "holds no rows" in complaint(tmp_path / "r.parquet")


def test_what_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "folder.parquet").mkdir()
    single, many = as_folder(tmp_path, RECORDS["answers"]), tmp_path / "many"
    made = datasets.Dataset.from_list(RECORDS["answers"])
    datasets.DatasetDict({"train": made, "gone": made}).save_to_disk(many)
    assert "does not exist" in complaint(tmp_path / "no.parquet")
    assert "do not exist" in complaint(tmp_path / "no" / "folder")
    for name in ("empty", "folder.parquet"):
        assert "cannot be read as rows" in complaint(tmp_path / name)
    assert "splits in this folder: train, gone. Name one" in complaint(many)
    assert "splits in this folder: train, gone. Name one" in complaint(f"{many}:test")
    assert "without splits" in complaint(f"{single}:train")


def test_a_path_with_a_colon_wins_over_a_split(tmp_path: Path) -> None:
    datasets.DatasetDict({"b": datasets.Dataset.from_list([{"text": "split"}])}).save_to_disk(tmp_path / "a")
    assert read(tmp_path / "a:b", "forget").rows[0].completion == "split"
    datasets.Dataset.from_list([{"text": "folder"}]).save_to_disk(tmp_path / "a:b")
    assert read(tmp_path / "a:b", "forget").rows[0].completion == "folder"


@pytest.mark.parametrize(
    "state", ["", "[]", "{}", '{"_data_files": [{"filename": "../r.arrow"}]}', '{"_data_files": [1]}']
)
def test_broken_descriptions(tmp_path: Path, state: str) -> None:
    as_folder(tmp_path, RECORDS["answers"])
    (tmp_path / "r.arrow").write_bytes(next((tmp_path / "rows").glob("*.arrow")).read_bytes())
    (tmp_path / "rows" / "state.json").write_text(state)
    assert "not what save_to_disk writes" in complaint(tmp_path / "rows")


def test_missing_data_file(tmp_path: Path) -> None:
    as_folder(tmp_path, RECORDS["answers"])
    next((tmp_path / "rows").glob("*.arrow")).unlink()
    assert "does not exist" in complaint(tmp_path / "rows")


@pytest.mark.parametrize("write", [as_parquet, as_folder])
def test_broken_files_give_one_clear_error(tmp_path: Path, write: Writing) -> None:
    """Cut off anywhere, or with bytes flipped: rows or an `InputError`, nothing else and no crash."""
    source = write(tmp_path, RECORDS["conversations"])
    file = Path(source) if Path(source).is_file() else next(Path(source).glob("*.arrow"))
    raw = file.read_bytes()
    chance = random.Random(0)
    refused = 0
    for turn in range(120):
        content = bytearray(raw)
        for _ in range(chance.choice([1, 3, 20])):
            content[chance.randrange(len(content))] = chance.randrange(256)
        file.write_bytes(content[: chance.randrange(len(raw))] if turn % 4 == 0 else content)
        try:
            read(source, "forget")
        except InputError:
            refused += 1
    assert refused >= 30
    file.write_bytes(raw[: len(raw) // 2])
    assert "cannot be read (broken" in complaint(source)


def test_rows_that_unpack_to_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both what a file says of itself and what comes out of it: a dictionary says one thousandth of it."""
    once, often = tmp_path / "once.parquet", tmp_path / "often.parquet"
    parquet.write_table(pyarrow.table({"text": ["zq7 " * 50_000]}), once)
    parquet.write_table(pyarrow.table({"text": ["zq7 " * 500] * 1000}), often)
    assert once.stat().st_size < 20_000 and often.stat().st_size < 20_000
    assert len(read(once, "forget")) == 1 and len(read(often, "forget")) == 1
    monkeypatch.setattr(tables, "MOST_BYTES", 100_000)
    declared = [parquet.ParquetFile(file).metadata.row_group(0).total_byte_size for file in (once, often)]
    assert declared[0] > 100_000 > declared[1]  # only the reading tells of the second
    for file in (once, often):
        assert "the rows unpack to" in complaint(file)
