"""Interrupted runs: the same command goes on to the same end; another one is refused by name; one run to an output."""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import expunge
import forked
import reliability
from expunge import registry
from expunge.cli import command_line
from expunge.errors import InputError
from expunge.runs import workspace

QUICK = {"steps": 24, "replay_texts": 16}
ROWS = ("forget", "retain", "holdout")
KILLED = {"unlearn, fisher_removal": "unlearning", "retrain": "training", "compare": "unlearning"}
WITHIN = 120  # seconds


@pytest.fixture
def given(little_world: Path, tmp_path: Path) -> dict[str, Any]:
    for name in ROWS:
        shutil.copy(little_world / f"{name}.jsonl", tmp_path)
    rows = {name: str(tmp_path / f"{name}.jsonl") for name in ROWS}
    return rows | {"model": str(little_world / "original"), "method": "loss_matching", "options": QUICK}


@pytest.fixture
def stopping(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Ctrl-C in the loss of a method, once it was called so many times; `called` says how often it was."""
    kind = registry.load("methods", "loss_matching")
    loss = kind.loss

    class Stopping:
        def __init__(self) -> None:
            self.called, self.most = 0, 10**9

        def after(self, calls: int) -> None:
            self.called, self.most = 0, calls

    stopping = Stopping()

    def counted(*arguments: Any) -> Any:
        stopping.called += 1
        if stopping.called > stopping.most:
            raise KeyboardInterrupt
        return loss(*arguments)

    monkeypatch.setattr(kind, "loss", counted)
    yield stopping


def run(given: dict[str, Any], output: Path, **more: Any) -> dict[str, str]:
    return reliability.fingerprint(expunge.unlearn(**given, output=str(output), **more).output)


def interrupted(given: dict[str, Any], output: Path, stopping: Any, calls: int) -> None:
    """An unlearning stopped after so many calls of the loss."""
    stopping.after(calls)
    with pytest.raises(KeyboardInterrupt, match="Give the same command to go on"):
        run(given, output)
    stopping.after(10**9)
    assert not output.exists() and not list(output.parent.glob(f".{output.name}-*"))


@pytest.fixture(autouse=True)
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("expunge.runs.checkpoint.SHARE", float("inf"))


def test_it_goes_on_where_it_was(given: dict[str, Any], tmp_path: Path, stopping: Any) -> None:
    output = tmp_path / "out"
    first: list[str] = []
    undisturbed, whole = run(given, output, say=first.append), stopping.called
    output.rename(tmp_path / "undisturbed")
    interrupted(given, output, stopping, whole - 8)
    (log,) = (workspace.state_folder() / "runs").glob("*/log.jsonl")  # as far as it came
    lines = (tmp_path / "undisturbed" / "expunge" / "log.jsonl").read_text().splitlines()
    assert 0 < len(log.read_text().splitlines()) < len(lines)
    stopping.after(whole // 2)  # it would not come to its end from the beginning with that
    said: list[str] = []
    finished = expunge.unlearn(**given, output=str(output), say=said.append)
    assert f"log: {log}" in said and not log.exists()
    assert "going on with the run of this output that was interrupted 1 time (--restart begins anew)" in said
    (chosen,) = [line for line in said if line.startswith("subspace: ")]
    assert chosen in first and not any("interrupted" in line for line in first)
    assert (output / "expunge" / "log.jsonl").read_text().splitlines() == lines
    assert reliability.fingerprint(output) == undisturbed
    assert finished.record.interruptions == 1
    assert not list((workspace.state_folder() / "runs").iterdir())


def test_another_run_is_refused_by_name(given: dict[str, Any], tmp_path: Path, stopping: Any) -> None:
    output = tmp_path / "out"
    interrupted(given, output, stopping, 3)
    with pytest.raises(InputError, match=r"begun with another --seed\. Give the same"):
        run(given, output, seed=5)
    lines = (tmp_path / "retain.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "retain.jsonl").write_text("".join(lines[:-1]))
    with pytest.raises(InputError, match=r"begun with another content of retain\."):
        run(given, output)
    assert not output.exists()
    assert run(given, output, restart=True)


def test_one_run_writes_an_output(given: dict[str, Any], tmp_path: Path) -> None:
    output = tmp_path / "out"
    with (
        workspace.locked(workspace.run_folder(output)),
        pytest.raises(InputError, match="another run is writing this output"),
    ):
        run(given, output)


def test_wrong_input_leaves_nothing_behind(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="chat template"):
        run(given, tmp_path / "out", chat_template=True)
    assert not list((workspace.state_folder() / "runs").iterdir())


def test_ctrl_c_is_a_sentence_and_130(
    given: dict[str, Any], tmp_path: Path, stopping: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    stopping.after(0)
    flags = [part for key in ("model", "forget", "retain", "holdout", "method") for part in (f"--{key}", given[key])]
    assert command_line.main(["unlearn", *flags, "--output", str(tmp_path / "out")]) == 130
    assert "interrupted. Give the same command to go on" in capsys.readouterr().err


class OnceItIsKept:
    """Stands for the chance that draws the moment of a kill: waits for the checkpoint of that name."""

    def __init__(self, home: Path, name: str) -> None:
        self.home, self.file = home, f"{name}.safetensors"

    def uniform(self, least: float, most: float) -> float:
        until = time.monotonic() + WITHIN
        while time.monotonic() < until:
            if any(self.home.rglob(self.file)):
                return 0.0
            time.sleep(0.001)
        raise AssertionError(f"{self.file} was never kept")


@pytest.mark.parametrize("name", KILLED)
def test_killed_once_it_ends_as_if_it_had_not_been(
    name: str, little_world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One kill each (SIGKILL) in the middle of the work; `benchmarks/reliability.py` has forty at any moment."""

    def start(arguments: list[str], output: Path, home: Path) -> forked.Process:
        own = {"EXPUNGE_CACHE": str(home / "cache"), "XDG_CONFIG_HOME": str(home.parent / "config")}
        return forked.expunge([*arguments, "--output", str(output)], home, own)

    monkeypatch.setattr(reliability, "start", start)
    reliability.shorten(little_world, tmp_path)
    arguments = reliability.commands(little_world, tmp_path)[name]
    found, expected = reliability.undisturbed(name, arguments, tmp_path)
    while not found.kills:
        reliability.killed(found, arguments, expected, tmp_path, 1, OnceItIsKept(tmp_path / "home", KILLED[name]))
    assert found.holds, found
