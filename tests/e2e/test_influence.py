"""`expunge influence`: the training rows on which what a model knows of a row depends most."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import expunge
from expunge.cli import command_line
from expunge.data.rows import Row
from expunge.errors import InputError
from expunge.records.attribution import listed


def given(world: Path, **more: Any) -> dict[str, Any]:
    files = {name: str(world / f"{name}.jsonl") for name in ("forget", "train")}
    return {"model": str(world / "original"), "most": 3, "device": "cpu"} | files | more


def test_a_memorised_row_depends_most_on_itself(little_world: Path, tmp_path: Path) -> None:
    said: list[str] = []
    found = expunge.influences(**given(little_world), output=tmp_path / "out", say=said.append)
    lines = [json.loads(line) for line in (tmp_path / "out" / "influence.jsonl").read_text().splitlines()]
    assert [line["name"] for line in lines] == [row.name for row in found.rows]
    assert len(lines) == 12 and all(len(line["sources"]) == 3 for line in lines)
    for line in lines:
        first, *others = line["sources"]
        assert first["same"] and first["id"] == line["id"] and first["influence"] > 0
        assert all(not other["same"] and other["influence"] < first["influence"] for other in others)
    assert "forget 1?" not in (tmp_path / "out" / "influence.jsonl").read_text()
    assert any(line.startswith("forget.jsonl:1: most of train.jsonl:") for line in said)


def test_the_command_line_says_the_same(little_world: Path, tmp_path: Path, capsys: Any) -> None:
    flags = [f"--{key}={value}" for key, value in given(little_world, show_rows=True).items() if value is not True]
    assert command_line.main(["influence", *flags, "--show-rows", f"--output={tmp_path / 'out'}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 12
    text = (tmp_path / "out" / "influence.jsonl").read_text()
    assert json.loads(text.splitlines()[0])["sources"][0]["text"].startswith("forget 1? ")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700


def test_training_rows_are_needed(little_world: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--train is missing"):
        expunge.influences(**given(little_world, train=None), output=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_largest_influences_are_listed() -> None:
    rows = [Row("train.jsonl", n, "answer", f"q {n}?", str(n)) for n in range(1, 4)]
    asked = Row("forget.jsonl", 7, "answer", "Q  2?", "2")
    (one,) = listed([asked], rows, torch.tensor([[0.1, 0.9, -0.5]], dtype=torch.float64), most=2)
    assert [(source.name, source.influence, source.same) for source in one.sources] == [
        ("train.jsonl:2", 0.9, True),
        ("train.jsonl:1", 0.1, False),
    ]
    assert len(listed([asked], rows, torch.zeros(1, 3), most=10)[0].sources) == 3
