"""--overwrite: the old output is there until the new one is whole, whenever the process is killed, and only what
expunge wrote, what is not read and what no ledger needs is replaced."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.config.commands import Compare, Influence, Unlearn
from expunge.errors import InputError
from expunge.files import hashing
from expunge.records import overwritable, record, replacing
from expunge.runs import outputs, purge
from reporting.conftest import build_record

FILES = {"influence.jsonl": "{}\n", "more/deep.txt": "x"}


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))


def write(folder: Path, word: str) -> Path:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(word + text, encoding="utf-8")
    return folder


def whole(folder: Path, word: str) -> bool:
    return folder.is_dir() and all(
        (folder / name).is_file() and (folder / name).read_text() == word + text for name, text in FILES.items()
    )


def replaced(output: Path, kill: int) -> bool:
    """Replaces the output in a process that is killed at one of its renames or removals; whether it came so far."""
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    steps = 0

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def step(*given: Any, **named: Any) -> Any:
            nonlocal steps
            steps += 1
            if steps == kill:
                os._exit(9)
            return call(*given, **named)

        return step

    try:
        for name in ("rename", "unlink", "rmdir", "fsync"):
            setattr(os, name, counted(getattr(os, name)))
        with outputs.whole_folder(output, replaces=True) as folder:
            write(folder, "new")
    finally:
        os._exit(0)


def check_kills(folder: Path, settle: bool = True) -> set[str]:
    """What is there after each kill; at every moment one of the two is whole, and afterwards it bears the name."""
    found, kill = set(), 0
    while True:
        kill += 1
        output = write(folder / f"out {kill}", "old")
        if not replaced(output, kill):
            assert whole(output, "new") and [*output.parent.iterdir()] == [output]
            return found
        beside = [path for path in output.parent.iterdir() if path.name.startswith(".")]
        assert any(whole(path, word) for path in (output, *beside) for word in ("old", "new")), kill
        if kill % 2 and settle:
            outputs.check_output(output, replaces=True)
        purge.remove(purge.abandoned())
        word = "old" if whole(output, "old") else "new"
        assert whole(output, word) and [*output.parent.iterdir()] == [output], kill
        found.add(word)
        shutil.rmtree(output)


def test_a_kill_at_any_moment_leaves_one_of_the_two_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert check_kills(tmp_path / "here") == {"old", "new"}


def remove_first(temporary: Path, output: Path, replaces: bool) -> None:
    shutil.rmtree(output)
    temporary.rename(output)


def test_what_removes_the_old_one_first_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(outputs, "_name", remove_first)
    with pytest.raises(AssertionError):
        check_kills(tmp_path / "here")


@pytest.mark.parametrize("failure", [KeyboardInterrupt, OSError])
def test_a_failure_between_the_names_gives_the_old_one_its_name_back(
    tmp_path: Path, failure: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = write(tmp_path / "out", "old")

    def broken(folder: Path) -> None:
        raise failure

    monkeypatch.setattr(outputs.whole, "flush", broken)
    with pytest.raises(failure), outputs.whole_folder(output, replaces=True) as folder:
        write(folder, "new")
    assert whole(output, "old") and {path.name for path in tmp_path.iterdir()} == {"out", "cache"}


def test_what_came_in_between_is_left_alone(tmp_path: Path) -> None:
    """Killed between the names, and then somebody makes a folder of the name: all three stay."""
    new, old = write(tmp_path / ".out-abcd1234", "new"), write(tmp_path / ".out-abcd1234.old", "old")
    write(tmp_path / "out", "other")
    assert not outputs.settle(new)
    purge.remove([purge.Left(new, "")])
    assert whole(new, "new") and whole(old, "old") and whole(tmp_path / "out", "other")


def made(folder: Path) -> Path:
    """An output with a record."""
    inner = folder / "expunge"
    inner.mkdir(parents=True)
    content = build_record(rows=1, retain=1, forgotten=0.0)
    content |= {"config": {}, "files": {"config.json": {"sha256": "", "bytes": 2}}}
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (inner / "record.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def changed(output: Path, **more: Any) -> None:
    file = record.find(output)
    file.write_text(json.dumps(json.loads(file.read_text()) | more), encoding="utf-8")


def test_outputs_of_expunge_alone_are_replaced(tmp_path: Path) -> None:
    output = made(tmp_path / "out")
    assert overwritable.checked(output, True, {}) == output
    for name in ("mine.gguf", "expunge/notes.txt"):
        (output / name).touch()
        with pytest.raises(InputError, match=rf"outputs of expunge alone, and {name} is no part of it"):
            overwritable.checked(output, True, {})
        (output / name).unlink()
    (tmp_path / "link").symlink_to(output)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").touch()
    (tmp_path / "file").touch()
    for name, words in (("folder", "there is no record in it"), ("link", "exists already"), ("file", "exists already")):
        with pytest.raises(InputError, match=words):
            overwritable.checked(tmp_path / name, True, {})
    with pytest.raises(InputError, match="add --overwrite"):
        overwritable.checked(output, False, {})
    (tmp_path / "twins" / "seed-0" / "expunge").mkdir(parents=True)
    (tmp_path / "twins" / "seed-0" / "expunge" / "retrain.json").touch()
    assert overwritable.checked(tmp_path / "twins", True, {})
    (tmp_path / "twins" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"notes.txt is no part of it"):
        overwritable.checked(tmp_path / "twins", True, {})


@pytest.mark.parametrize(
    "given",
    [
        {"model": "out"},
        {"base": "out"},
        {"retrained": "out"},
        {"forget": "out/config.json"},
        {"earlier": ("elsewhere.jsonl", "out/config.json")},
        {"retrained_log": "out/config.json"},
        {"recipe": "out/config.json"},
        {"method": "out/mine.py"},
        {"data_root": "out", "retain": "config.json"},
        {"model": "./folder/../out"},
        {"curvature": "out/deep/er"},
        {"output": ".", "model": "out"},
        {"output": "model/out", "model": "model"},
    ],
    ids=str,
)
def test_what_is_read_stays(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(overwritable, "_stranger", lambda folder: "")
    made(tmp_path / "out"), made(tmp_path / "model" / "out")
    (tmp_path / "model" / "config.json").touch()
    with pytest.raises(InputError, match="--overwrite would remove"):
        replacing.place(Unlearn(**{"output": "out", "overwrite": True} | given))
    fine: Any = {"model": "out2", "forget": "f.jsonl", "method": "npo", "output": "out", "overwrite": True}
    assert replacing.place(Unlearn(**fine)) == Path("out")


def test_nothing_is_written_into_a_model_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made(tmp_path / "model"), (tmp_path / "plain").mkdir()
    (tmp_path / "model" / "config.json").touch()
    with pytest.raises(InputError, match="model/deep/out: lies inside --model, which is never written to"):
        replacing.place(Unlearn(model="./model", forget="f.jsonl", output="model/deep/out"))
    with pytest.raises(InputError, match="lies inside --base"):
        replacing.place(Unlearn(model="other", base="model", forget="f.jsonl", output="model/out"))
    assert replacing.place(Unlearn(model="plain", forget="f.jsonl", output="plain/out")) == Path("plain/out")


def test_a_ledger_does_not_lose_what_it_names(tmp_path: Path) -> None:
    output, ledger = made(tmp_path / "out"), str(tmp_path / "ledger")
    changed(output, config={"ledger": ledger, "request": "R1"})
    given: dict[str, Any] = {"output": str(output), "overwrite": True}
    again = Unlearn(**given, ledger=ledger, request="R1")
    assert replacing.place(again) == output
    for other in (
        Unlearn(**given),
        Unlearn(**given, ledger=ledger, request="R2"),
        Influence(**given),
        Compare(**given),
    ):
        with pytest.raises(InputError, match=r"request R1 of the ledger .* was tried with it"):
            replacing.place(other)
    changed(output, verdict=json.loads(record.find(output).read_text())["verdict"] | {"passes": True})
    with pytest.raises(InputError, match=r"request R1 of the ledger .* was served by it"):
        replacing.place(again)
    assert len(hashing.full_hash(record.find(output))) == 64
