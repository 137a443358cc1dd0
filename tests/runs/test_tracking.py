"""What trackers are told: numbers of the log, each line once, and nothing that is a text or a name."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate import tracking as theirs

import expunge
from e2e import little
from expunge.errors import InputError
from expunge.loop import delivery
from expunge.runs import tracking, workspace
from expunge.runs.growing import Growing

SECRET = "Quentin Xylander"
LINE = {
    "phase": SECRET, "step": 3, "forget": {"before": 1.5, "after": None, "by": {"kl": 2}}, "ids": [1, 2], "done": True,
    "refused": None, "notes": {"warning": SECRET, "rows": {"fit": 4}},
}  # fmt: skip


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))


def check_figures(figures: Callable[[Any], Any]) -> None:
    assert figures(LINE) == {"step": 3, "forget/before": 1.5, "forget/by/kl": 2, "notes/rows/fit": 4}


def test_numbers_alone() -> None:
    check_figures(tracking.figures)
    with pytest.raises(AssertionError):
        check_figures(lambda entry: entry)


class Heard(theirs.GeneralTracker):  # type: ignore[misc]
    """Stands for wandb and trackio, which need a network or a server; keeps what it is told."""

    name, requires_logging_directory = "wandb", False
    made: list["Heard"] = []  # noqa: RUF012

    def __init__(self, project: str, **given: Any) -> None:
        super().__init__()
        self.given, self.lines, self.ended = {"project": project, **given}, list[Any](), False
        Heard.made.append(self)

    def start(self) -> None: ...

    @property
    def tracker(self) -> None:
        return None

    def store_init_configuration(self, values: Any) -> None: ...

    def log(self, values: Any, step: int | None = None, **more: Any) -> None:
        assert step is None
        self.lines.append(values)

    def finish(self) -> None:
        self.ended = True


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> list[Heard]:
    monkeypatch.setitem(theirs.LOGGER_TYPE_TO_CLASS, "wandb", Heard)
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    for name in tracking.SENDS_NO_MORE:
        monkeypatch.setenv(name, "")
    Heard.made.clear()
    return Heard.made


def test_a_run_is_told_and_goes_on_under_its_name(
    tmp_path: Path, heard: list[Heard], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted when all is logged; of a run that goes on nothing is told twice."""
    given = little.write_all(tmp_path) | {"report_to": ("wandb",), "options": {"epochs": 6, "learning_rate": 1e-4}}
    deliver = delivery.deliver

    def stopped(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr("expunge.loop.trial.deliver", stopped)
    with pytest.raises(KeyboardInterrupt):
        little.unlearn(tmp_path / "out", **given)
    (log,) = (workspace.state_folder() / "runs").glob("*/log.jsonl")
    wanted = [tracking.figures(json.loads(line)) for line in log.read_text().splitlines()]
    assert heard[0].lines == wanted and len(wanted) > 2 and heard[0].ended
    monkeypatch.setattr("expunge.loop.trial.deliver", deliver)
    little.unlearn(tmp_path / "out", **given)
    assert heard[1].lines == [] and heard[1].given == heard[0].given
    assert set(heard[0].given) == {"project", "name", "id", "resume"} and heard[0].given["project"] == "expunge"
    assert str(tmp_path) not in str(heard[0].given) and os.environ["WANDB_CONSOLE"] == "off"


def test_pieces_of_work_have_numbers_and_no_names(tmp_path: Path) -> None:
    told: list[Any] = []
    log = Growing(tmp_path / "log.jsonl", [lambda part, place, entry: told.append((part, place))])
    for cell in (SECRET, "other"):
        one = log.part(cell=cell, seed=0)
        one({"loss": 1.0}), one({"loss": 2.0})
    log.part(cell=SECRET, seed=0)({"loss": 3.0})  # begun anew, behind the other
    assert told[:4] == [("cell 1", 0), ("cell 1", 1), ("cell 2", 0), ("cell 2", 1)]
    assert SECRET not in str(told)


def test_a_package_that_is_missing_is_named_before_anything_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    calls: list[Callable[..., Any]] = [expunge.unlearn, expunge.retrain, expunge.compare]
    for call in calls:
        with pytest.raises(InputError, match=r"--report-to trackio: .* Run: pip install trackio$"):
            call(model="nowhere", forget="nowhere", output=tmp_path / "out", report_to=["trackio", "wandb"])
    with pytest.raises(InputError, match=r'pip install "expunge\[tensorboard\]"'):
        expunge.unlearn("nowhere", "nowhere", report_to=["tensorboard"])
    monkeypatch.setattr(tracking, "find_spec", lambda name: object())
    monkeypatch.delitem(theirs.LOGGER_TYPE_TO_CLASS, "trackio")
    with pytest.raises(InputError, match=r"accelerate .* does not know it"):
        expunge.unlearn("nowhere", "nowhere", report_to=["trackio"])
    with pytest.raises(InputError, match="report_to must be one of tensorboard, trackio, wandb, found 'aim'"):
        expunge.unlearn("nowhere", "nowhere", report_to=["aim"])  # type: ignore[list-item]


def test_tensorboard_shows_the_log(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    said: list[str] = []
    given = little.write_all(tmp_path)
    run = little.unlearn(tmp_path / "out", **given, report_to=["tensorboard"], say=said.append)
    place = tmp_path / "out.tensorboard"
    assert f"tensorboard: {place}" in said
    (folder,) = place.iterdir()
    read = EventAccumulator(str(folder))
    read.Reload()
    lines = [json.loads(line) for line in (run.output / "expunge" / "log.jsonl").read_text().splitlines()]
    figures = [tracking.figures(line) for line in lines]
    assert set(read.Tags()["scalars"]) == {name for one in figures for name in one}
    for name in read.Tags()["scalars"]:
        wanted = [(place, one[name]) for place, one in enumerate(figures) if name in one]
        assert [(one.step, pytest.approx(one.value, rel=1e-6)) for one in read.Scalars(name)] == wanted
    assert not read.Tags()["images"] and not read.Tags()["tensors"]
    stored = b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())
    for word in (b"jsonl", b"Item ", b"gradient_ascent", b"forget 1?"):
        assert word not in stored
