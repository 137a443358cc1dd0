"""What requests in sequence lost is added up from the records, as far as they are those that the runs saw."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from expunge.files import hashing
from expunge.records import record, sequence
from expunge.records.sequence import SoFar
from expunge.reporting.finding import Score


def scores(original: float | None, unlearned: float | None, metric: str = "knowledge") -> tuple[Score, ...]:
    values = {"original": original, "unlearned": unlearned}
    others = Score("knowledge", "forget", "original", 0.5, 0.0, 1.0, 9)
    return (others, *(Score(metric, "retain", name, value, 0.0, 1.0, 9) for name, value in values.items()))


@dataclass
class Before:
    path: str
    record: str


@dataclass
class Made:
    """As much of a record as is read of it."""

    scores: tuple[Score, ...]
    model: str
    parent: Before | None = None

    def setting(self, name: str) -> str:
        assert name == "model"
        return self.model


@pytest.fixture
def line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Made]:
    """Three runs: 1.00 to 0.96, 0.95 to 0.90, 0.91 to 0.80 known; oldest first."""
    made = list[Made]()
    for number, (then, now) in enumerate([(1.0, 0.96), (0.95, 0.90), (0.91, 0.80)]):
        file = tmp_path / f"run{number}" / "expunge" / "record.json"
        file.parent.mkdir(parents=True)
        file.write_text(str(number), encoding="utf-8")
        earlier = tmp_path / f"run{number - 1}"
        known = Before(str(earlier), hashing.full_hash(record.find(earlier))) if number else None
        made.append(Made(scores(then, now), str(earlier) if number else "first", known))

    def read(file: Path) -> Any:
        return made[int(file.read_text(encoding="utf-8"))]

    monkeypatch.setattr(record, "read", read)
    return made


def test_what_runs_lose_adds_up(line: list[Made]) -> None:
    found = sequence.so_far(line[-1])  # type: ignore[arg-type]
    assert found == SoFar("first", (1.0, 0.96, 0.90, 0.80)) and found.lost == pytest.approx(0.2)
    assert found.sentence.startswith("3 runs in sequence: of the answers to keep the first model knew 1.00, then 0.96,")
    assert "(first)" in found.sentence
    more = found.then(scores(0.80, 0.75))
    assert more.known[-1] == 0.75 and more.lost == pytest.approx(0.25) and more.sentence.startswith("4 runs")
    assert found.then(()) == found


def test_the_line_ends_where_a_record_is_another_or_silent(line: list[Made], tmp_path: Path) -> None:
    (tmp_path / "run0" / "expunge" / "record.json").write_text("0 ", encoding="utf-8")  # not the one that run 1 saw
    assert sequence.so_far(line[-1]) == SoFar(str(tmp_path / "run0"), (0.95, 0.90, 0.80))  # type: ignore[arg-type]
    line[1].scores = scores(0.95, 0.90, "loss")
    assert sequence.so_far(line[-1]) == SoFar(str(tmp_path / "run1"), (0.91, 0.80))  # type: ignore[arg-type]
    line[2].scores = scores(None, 0.80)
    assert sequence.so_far(line[-1]) is None  # type: ignore[arg-type]


def test_a_little_is_not_said() -> None:
    assert SoFar("first", (1.0, 0.96)).sentence == "" == SoFar("first", (0.9, 0.95)).sentence
    assert SoFar("first", (1.0, 0.94)).sentence.startswith("1 run in sequence")
