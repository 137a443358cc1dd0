"""`purge`: what dead runs left and the caches go; what lives, outputs and everybody else's files stay."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.cli import command_line
from expunge.model.save import atomic_folder
from expunge.runs import purge, workspace


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def killed(work: Callable[[], None]) -> None:
    """Runs in a process that ends at once, without any clean-up."""
    child = os.fork()
    if not child:
        try:
            work()
        finally:
            os._exit(1)
    os.waitpid(child, 0)


def _half_written(output: Path) -> None:
    with atomic_folder(output) as folder:
        (folder / "model.safetensors").write_bytes(b"x" * 1000)
        os._exit(9)


def _interrupted(output: Path) -> None:
    folder = workspace.run_folder(output)
    with workspace.locked(folder):
        (folder / "checkpoint").write_text("rows", encoding="utf-8")
        os._exit(9)


@pytest.fixture
def everything(tmp_path: Path, cache: Path) -> dict[str, set[Path]]:
    """What may go and what must stay."""
    outputs = tmp_path / "outputs"
    with atomic_folder(outputs / "finished") as folder:
        (folder / "model.safetensors").write_bytes(b"x")
    killed(lambda: _half_written(outputs / "half"))
    killed(lambda: _interrupted(outputs / "half"))
    (half,) = outputs.glob(".half-*")
    for name in ("twins/a", "cells", "demo-0-abc", "mine"):
        (cache / name).mkdir(parents=True)
        (cache / name / "file").write_text("x", encoding="utf-8")
    (outputs / ".finished-backup1").mkdir()  # looks like one, but no run noted it
    return {
        "go": {half, workspace.run_folder(outputs / "half"), cache / "twins", cache / "cells", cache / "demo-0-abc"},
        "stay": {outputs / "finished" / "model.safetensors", cache / "mine" / "file", outputs / ".finished-backup1"},
    }


def check_purge(everything: dict[str, set[Path]], run: Callable[[], None]) -> None:
    assert all(path.exists() for paths in everything.values() for path in paths)
    run()
    assert not [path for path in everything["go"] if path.exists()]
    assert all(path.exists() for path in everything["stay"])


def test_what_is_left_goes_and_all_else_stays(
    everything: dict[str, set[Path]], capsys: pytest.CaptureFixture[str]
) -> None:
    check_purge(everything, lambda: assert_code(0, "purge", "--yes", "--json"))
    told = json.loads(capsys.readouterr().out)
    assert {str(path) for path in everything["go"]} <= set(told["removed"]) and told["left"] == []
    assert_code(0, "purge")  # nothing is left, so nothing is asked
    assert "nothing to remove" in capsys.readouterr().out


def assert_code(code: int, *arguments: str) -> None:
    assert command_line.main(arguments) == code


def test_the_check_rejects_a_purge_that_takes_hidden_folders_by_their_names(everything: dict[str, set[Path]]) -> None:
    def careless() -> None:
        found = purge.left()
        outputs = next(one.path.parent for one in found if one.what.startswith("unfinished"))
        purge.remove([*found, *(purge.Left(path, "") for path in outputs.glob(".*"))])

    with pytest.raises(AssertionError):
        check_purge(everything, careless)


def test_caches_may_stay(everything: dict[str, set[Path]], cache: Path) -> None:
    assert_code(0, "purge", "--yes", "--keep-caches")
    assert (cache / "twins" / "a" / "file").exists()
    assert not [path for path in everything["go"] if path.exists() and path.parent != cache]


def test_nothing_goes_unasked(
    everything: dict[str, set[Path]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_code(2, "purge")
    assert "Pass --yes" in capsys.readouterr().err
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    for answer in ("", "n\n", "\n"):
        monkeypatch.setattr("sys.stdin.readline", lambda answer=answer: answer, raising=False)
        assert_code(0, "purge")
    assert all(path.exists() for path in everything["go"])
    monkeypatch.setattr("sys.stdin.readline", lambda: "y\n", raising=False)
    check_purge(everything, lambda: assert_code(0, "purge"))


def test_what_a_living_run_holds_stays(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as folder, workspace.locked(workspace.run_folder(tmp_path / "out")):
        found = purge.left()
        assert found == []
        assert purge.remove([purge.Left(workspace.run_folder(tmp_path / "out"), "")]) == []
        assert folder.is_dir()


def test_a_note_that_names_an_output_removes_none(tmp_path: Path) -> None:
    """Whatever a note says, only what bears a temporary name goes; and no link is followed."""
    (tmp_path / "out").mkdir()
    (tmp_path / ".out-abcdefgh").symlink_to(tmp_path / "out")
    for name in ("out", ".out-abcdefgh"):
        killed(lambda name=name: _note(tmp_path / name))  # type: ignore[misc]
    assert [one.what for one in purge.left()] == ["working folder, whose run has ended"] * 2


def _note(folder: Path) -> None:
    with workspace.noted(folder):
        os._exit(9)
