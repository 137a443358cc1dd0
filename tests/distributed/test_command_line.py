"""`accelerate launch -m expunge unlearn`: the record of one process, one voice, and one message where one fails."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distributed import failing, pairs, world
from expunge.cli import command_line, ending
from expunge.cli.ending import Answer
from expunge.runs import distributed, launcher

OWN = ("created", "seconds", "peak_memory_bytes", "hashes", "machine", "files")  # of a run, not of what it found
ACCELERATE = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
ACCELERATE += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]


@pytest.fixture(scope="module")
def arguments(make_llama: Callable[..., Any], tokenizer: Any, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("world")
    return [*world.write(folder, make_llama(context=48), tokenizer), "--force"]


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Where two records differ; numbers, those in sentences too, to 2 in 1,000, since sums are rounded otherwise."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [line for key in one for line in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            line for n, pair in enumerate(zip(one, other, strict=True)) for line in differences(*pair, f"{place}[{n}]")
        ]
    if isinstance(one, str) and isinstance(other, str):
        shapes = [re.sub(r"[\d.]+", "#", text) for text in (one, other)]
        numbers = [[float(found) for found in re.findall(r"\d+\.?\d*", text)] for text in (one, other)]
        same = shapes[0] == shapes[1] and numbers[0] == pytest.approx(numbers[1], rel=2e-3, abs=2e-3)
    elif isinstance(one, float) and isinstance(other, float):
        same = one == pytest.approx(other, rel=2e-3, abs=1e-4)
    else:
        same = one == other
    return [] if same else [f"{place}: {one!r} / {other!r}"]


def record_of(output: Path) -> dict[str, Any]:
    content = json.loads((output / "expunge" / "record.json").read_text())
    content["config"].pop("output")
    return content


def test_the_record_is_that_of_one_process(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    code = command_line.main([*arguments, "--output", str(tmp_path / "one")])
    command = [*ACCELERATE, "-m", "expunge", *arguments, "--output", str(tmp_path / "two")]
    done = subprocess.run(
        command, env=pairs.environment(tmp_path), capture_output=True, text=True, timeout=pairs.WITHIN
    )
    assert (tmp_path / "two" / "model.safetensors").is_file(), done.stderr[-4000:]
    assert (done.returncode == 0) == (code == 0)
    one, two = record_of(tmp_path / "one"), record_of(tmp_path / "two")
    assert two["machine"] == f"{one['machine']}, 2 processes"
    for content in (one, two):
        for key in OWN:
            del content[key]
    assert differences(one, two) == []
    assert differences(one, two | {"history": one["history"][:1]})
    assert done.stdout.count("verdict: ") == 1 == done.stdout.count("report: ")
    logs = [(tmp_path / name / "expunge" / "log.jsonl").read_text().count("\n") for name in ("one", "two")]
    assert logs[0] == logs[1] > 0
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_an_error_of_one_ends_all_with_one_message(arguments: list[str], tmp_path: Path) -> None:
    """Without a launcher that would end the other, and in the middle of the work: nothing half-written is left."""
    first, second = pairs.run(failing.main, [1, [*arguments, "--output", str(tmp_path / "out")]], tmp_path)
    assert (first.returncode, second.returncode) == (1, 2), first.stderr[-4000:] + second.stderr[-4000:]
    assert second.stderr == "expunge: row 7 of this process is wrong. Mend it.\n" and second.stdout == ""
    assert "expunge" not in first.stderr and "Traceback" not in first.stderr
    assert "audit: " in first.stdout and "verdict: " not in first.stdout
    assert not [path.name for path in tmp_path.iterdir() if path.name.lstrip(".").startswith("out")]


@pytest.mark.parametrize(("speaks", "said"), [(True, 1), (False, 0)])
def test_what_nobody_foresaw_is_shown_by_the_first_to_fail(
    speaks: bool, said: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(arguments: list[str]) -> Answer:
        raise RuntimeError("out of everything")

    def end(code: int) -> None:
        raise SystemExit(code)

    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(distributed, "join", lambda: SimpleNamespace(speaks=lambda: speaks))
    monkeypatch.setattr(ending.signal, "signal", lambda *given: None)
    monkeypatch.setattr(command_line, "_run", fail)
    monkeypatch.setattr(ending.os, "_exit", end)
    with pytest.raises(SystemExit) as ended:
        command_line.main(["unlearn"])
    assert ended.value.code == 1
    assert capsys.readouterr().err.count("expunge: nobody foresaw this: RuntimeError") == said


@pytest.mark.parametrize("name", list(launcher.REFUSED))
def test_launchers_that_are_not_tested_are_refused(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before any file is looked at: the model does not exist."""
    monkeypatch.setenv(name, "true")
    assert command_line.main(["unlearn", "--model", "nowhere", "--forget", "nothing.jsonl", "--output", "out"]) == 2
    message = capsys.readouterr().err
    assert launcher.REFUSED[name] in message and "accelerate launch --multi_gpu" in message and "nowhere" not in message
    monkeypatch.setenv(name, "false")
    assert command_line.main(["unlearn", "--model", "nowhere", "--forget", "nothing.jsonl", "--output", "out"]) == 2
    assert "nowhere" in capsys.readouterr().err


def test_what_one_process_does_alone_is_refused_to_several(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert (launcher.processes(), launcher.rank(), launcher.neighbours()) == (2, 1, 2)
    launcher.check("unlearn")
    with pytest.raises(launcher.InputError, match="compare is the work of one process"):
        launcher.check("compare")
    monkeypatch.delenv("LOCAL_RANK")  # a cluster manager's numbers, no launcher's
    assert (launcher.processes(), launcher.rank(), launcher.neighbours()) == (1, 0, 1)
    monkeypatch.setenv("OMPI_COMM_WORLD_SIZE", "2")
    with pytest.raises(launcher.InputError, match="MPI"):
        launcher.check("unlearn")
