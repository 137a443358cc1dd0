"""Nothing leaks: after a redacted run no string of a forget row stands anywhere; with --show-rows it is found."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

import leaks
from expunge.cli import command_line
from expunge.loop import trial

COUNTS = {"forget": 10, "retain": 10, "holdout": 20}


@dataclass(frozen=True)
class Place:
    """Inputs as flags, the texts of the forget rows, and a folder that holds all that runs can write to."""

    flags: list[str]
    rows: list[str]
    folder: Path
    tokenizer: Any

    def search(self, said: dict[str, str]) -> list[str]:
        return leaks.search(leaks.needles(self.rows), [self.folder], said, self.tokenizer)


@pytest.fixture
def place(world: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A model that knows its rows by heart; every folder that a run may use lies below one."""
    inputs, folder = tmp_path_factory.mktemp("inputs"), tmp_path_factory.mktemp("all")
    rows: list[str] = []
    flags = ["--model", str(world / "original")]
    for role, count in COUNTS.items():
        lines = (world / f"{role}.jsonl").read_text(encoding="utf-8").splitlines()[:count]
        (inputs / f"{role}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
        flags += [f"--{role}", str(inputs / f"{role}.jsonl")]
        rows += [" ".join(json.loads(line).values()) for line in lines] if role == "forget" else []
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME", "TMPDIR"):
        (folder / name).mkdir()
        monkeypatch.setenv(name, str(folder / name))
    monkeypatch.setenv("EXPUNGE_CACHE", str(folder / "cache"))
    monkeypatch.setattr("tempfile.tempdir", str(folder / "TMPDIR"))
    return Place(flags, rows, folder, AutoTokenizer.from_pretrained(world / "original"))


def unlearn(place: Place, *more: str) -> None:
    method = ["--method", "gradient_ascent", "--options.epochs", "1", "--options.learning-rate", "1e-4"]
    code = command_line.main(["unlearn", *place.flags, *method, "--output", str(place.folder / "out"), *more])
    assert code in (0, 3)


def test_a_redacted_run_leaves_nothing(
    place: Place, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """While it lasts, generations lie in its working folder, for its owner only, and nowhere else."""
    state, during = place.folder / "cache" / "state", list[str]()
    deliver = trial.deliver

    def look(*arguments: Any) -> Any:
        during.extend(place.search({}))
        assert {folder.stat().st_mode & 0o777 for folder in (state, *state.glob("*/*"))} == {0o700}
        return deliver(*arguments)

    monkeypatch.setattr(trial, "deliver", look)
    unlearn(place)
    assert command_line.main(["plan", *place.flags, "--method", "gradient_ascent"]) == 0
    out, err = capfd.readouterr()
    assert place.search({"stdout": out, "stderr": err}) == []
    assert during and [found for found in during if not found.startswith(f"{state}/runs/")] == []
    assert "forget: 10 rows" in out and (place.folder / "out" / "expunge" / "report.html").is_file()
    assert [file for file in state.rglob("*") if file.is_file()] == []
    assert list((place.folder / "TMPDIR").iterdir()) == []


def test_the_search_finds_rows_that_are_shown(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    unlearn(place, "--show-rows")
    found = place.search({})
    pages = {f"{place.folder / 'out' / 'expunge' / name}: a run of six words" for name in ("report.html", "report.md")}
    assert pages == set(found)  # in the pages, and in nothing else
    assert command_line.main(["plan", *place.flags, "--method", "gradient_ascent", "--show-rows"]) == 0
    assert len(capfd.readouterr().out) > 0


def test_a_comparison_leaves_nothing(place: Place, capfd: pytest.CaptureFixture[str]) -> None:
    asked = ["--methods", "gradient_ascent", "--seeds", "0", "--tokens", "2000", "--generations", "short"]
    assert command_line.main(["compare", *place.flags, *asked, "--output", str(place.folder / "out")]) == 0
    out, err = capfd.readouterr()
    assert place.search({"stdout": out, "stderr": err}) == []
    assert list((place.folder / "cache" / "cells").iterdir())
