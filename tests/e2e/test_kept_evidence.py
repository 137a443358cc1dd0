"""A second run on the same model, by whatever method, does not measure it again, and says so."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e import little
from expunge.evaluation import evidence
from problems import write_model


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[list[str]]]:
    """The sets that each recording measured, in order."""
    found: list[list[str]] = []
    record = evidence.record

    def noted(problem: Any, splits: Any, *more: Any, **named: Any) -> Any:
        found.append(list(splits))
        return record(problem, splits, *more, **named)

    monkeypatch.setattr(evidence, "record", noted)
    yield found


def same(one: Any, other: Any) -> None:
    for part in ("scores", "losses", "rows", "verdict"):
        assert getattr(one, part) == getattr(other, part), part


def test_a_second_run_measures_the_written_model_alone(tmp_path: Path, measured: list[list[str]]) -> None:
    given = little.write_all(tmp_path) | {"retrained": str(tmp_path / "retrained")}
    write_model(tmp_path / "retrained", seed=1, width=16, layers=1)
    first = little.unlearn(tmp_path / "a", **given)
    assert len(measured) == 3 and all(sets == measured[0] for sets in measured)
    again = little.unlearn(tmp_path / "b", **given)
    assert measured[3:] == [measured[0]], "the written model"
    same(first.record, again.record)
    assert "original: 4 of 4 sets measured by earlier runs" in again.record.seconds
    assert not any("earlier runs" in stage for stage in first.record.seconds)


def test_other_rows_are_measured_and_shown_rows_too(tmp_path: Path, measured: list[list[str]]) -> None:
    given = little.write_all(tmp_path)
    little.unlearn(tmp_path / "a", **given)
    retain = Path(given["retain"])
    retain.write_text(retain.read_text() + json.dumps({"prompt": "one more?", "completion": "yes"}) + "\n")
    del measured[:]
    little.unlearn(tmp_path / "b", **given)
    assert "forget" not in measured[0] and "judging" not in measured[0] and "retain" in measured[0]
    del measured[:]
    shown = little.unlearn(tmp_path / "c", **given, show_rows=True)
    assert measured[0] == ["forget"] and all(text["generated"]["original"] is not None for text in shown.texts.values())
