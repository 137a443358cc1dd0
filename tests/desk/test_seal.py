"""`seal`: what goes and what stays, what cannot be reached is listed, and no state claims more than what is there."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from e2e import little
from expunge.cli import command_line
from expunge.config.desk import Seal
from expunge.config.housekeeping import Verify
from expunge.desk import seal
from expunge.errors import InputError
from expunge.records import ledger, record
from expunge.records.verify import verify
from expunge.reporting import entries
from expunge.runs import purge, workspace


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that shows rows, entered as R1, and once more in the ledger as if its verdict had passed."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "settings"))
        given = little.write_all(folder) | {"ledger": str(folder / "ledger"), "request": "R1", "show_rows": True}
        little.unlearn(folder / "out", **given)
    return folder


@pytest.fixture
def world(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run, a ledger that has served it, caches, and what an interrupted run left. Nothing of it is at `made`."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(made / "settings"))
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    for name in ("out", "ledger", "model"):
        shutil.copytree(made / name, tmp_path / name)
    shutil.copy(made / "forget.jsonl", tmp_path)
    file = record.find(tmp_path / "out")
    file.write_text(file.read_text(encoding="utf-8").replace(str(made), str(tmp_path)), encoding="utf-8")
    with ledger.held(tmp_path / "ledger", "a test") as (known, _):
        run = known.requests["R1"].run
        assert run
        there = {"path": str(tmp_path / "out"), "record": seal.hashing.full_hash(file)}
        known.with_entry(replace(run, **there, passes=True))
    for name in ("twins/a", "cells", "evidence", "demo-0-abc", "mine"):
        (tmp_path / "cache" / name).mkdir(parents=True)
        (tmp_path / "cache" / name / "file").write_text("x", encoding="utf-8")
    workspace.run_folder(tmp_path / "half").joinpath("checkpoint").write_text("rows", encoding="utf-8")
    return tmp_path


@pytest.fixture(autouse=True)
def quick_pages(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing pages takes a second; one test does."""
    if request.function is not test_what_holds_the_rows_goes_and_the_rest_is_listed:
        monkeypatch.setattr(seal, "PAGES", dict.fromkeys(seal.PAGES, lambda record, texts: "drawn anew"))


def run(world: Path, **more: Any) -> tuple[seal.Sealing, list[str]]:
    said: list[str] = []
    settings = {"run": str(world / "out"), "ledger": str(world / "ledger"), "yes": True} | more
    return seal.run(Seal(**settings), said.append, lambda: False), said


def state(world: Path) -> str:
    return ledger.read(world / "ledger").requests["R1"].state


def held(world: Path) -> list[Path]:
    """Everything of the world that holds rows or what models say of them, and is under control."""
    cache = world / "cache"
    places = [cache / name for name in ("twins", "cells", "evidence")] + [*(cache / "state" / "runs").iterdir()]
    return [place for place in (*places, world / "out" / "expunge" / "evidence") if place.exists()]


def check_sealed(world: Path) -> None:
    assert held(world) == [] and state(world) == "sealed"
    pages = [(world / "out" / "expunge" / name).read_text(encoding="utf-8") for name in seal.PAGES]
    assert not [page for page in pages if "Item 3 of forget" in page]
    assert (world / "cache" / "mine" / "file").exists() and (world / "cache" / "demo-0-abc" / "file").exists()
    assert (world / "out" / "model.safetensors").exists() and (world / "model").exists()


def test_what_holds_the_rows_goes_and_the_rest_is_listed(world: Path) -> None:
    assert "Item 3 of forget" in (world / "out" / "expunge" / "report.html").read_text(encoding="utf-8")
    found, said = run(world)
    check_sealed(world)
    assert found.done and said[-1] == "request R1 is sealed"
    reached = {one.where: one.what for one in found.elsewhere}
    assert reached[str(world / "model")] == "the original model" and reached["not known here"]
    assert reached[str(world / "forget.jsonl")] == "the rows that were given"
    end = ledger.read(world / "ledger").requests["R1"].of(entries.Sealed)[0]
    assert len(end.removed) == 5 and end.elsewhere == found.elsewhere and not end.forced
    items = verify(Verify(record=str(world / "out")))
    gone = [item for item in items if item.note == "removed when the request was sealed"]
    assert gone and not [item for item in items if item.state == "differs" and item.name.startswith("expunge/")]
    (world / "out" / "expunge" / "report.md").write_text("another", encoding="utf-8")
    changed = [item.name for item in verify(Verify(record=str(world / "out"))) if item.state == "differs"]
    assert "expunge/report.md" in changed
    (world / "out" / "expunge" / record.SEALED).write_text('{"files": [1]}', encoding="utf-8")
    with pytest.raises(InputError, match=r"sealed\.json, at \$\.files"):
        verify(Verify(record=str(world / "out")))
    with pytest.raises(InputError, match="R1 is sealed already"):
        run(world)


def test_original_and_rows_go_only_if_asked(world: Path) -> None:
    found, _ = run(world, remove_original=True, remove_rows=True)
    assert not (world / "model").exists() and not (world / "forget.jsonl").exists() and state(world) == "sealed"
    assert not {str(world / "model"), str(world / "forget.jsonl")} & {one.where for one in found.elsewhere}


def test_a_stored_curvature_goes_if_asked_and_nothing_else_of_that_name(world: Path) -> None:
    file = record.find(world / "out")
    content = json.loads(file.read_text(encoding="utf-8"))
    content["config"]["curvature"] = str(world / "fitted")
    file.write_text(json.dumps(content), encoding="utf-8")
    (world / "fitted").mkdir()
    with ledger.held(world / "ledger", "a test") as (known, _):
        last = known.requests["R1"].run
        assert last
        known.with_entry(replace(last, record=seal.hashing.full_hash(file)))
    with pytest.raises(InputError, match=r"holds no curvature\.json"):
        run(world, remove_curvature=True)
    (world / "fitted" / "curvature.json").write_text("{}", encoding="utf-8")
    run(world, remove_curvature=True)
    assert not (world / "fitted").exists() and state(world) == "sealed"


def nested(world: Path) -> None:
    (world / "model" / "ledger").mkdir()
    shutil.copytree(world / "ledger", world / "model" / "ledger", dirs_exist_ok=True)


def linked(world: Path) -> None:
    (world / "model").rename(world / "real")
    (world / "model").symlink_to(world / "real")


def stranger(world: Path) -> None:
    (world / "model" / "config.json").unlink()


REFUSED: list[tuple[Callable[[Path], Any], dict[str, Any], str]] = [
    (nested, {"remove_original": True, "ledger": "model/ledger"}, "holds the run, its ledger"),
    (linked, {"remove_original": True}, "is a link"),
    (stranger, {"remove_original": True}, "holds no config.json"),
    (lambda world: None, {"remove_curvature": True}, "no stored curvature"),
    (lambda world: None, {"ledger": "nowhere"}, "no request of .* was served by this run"),
    (lambda world: None, {"run": "model"}, "the record does not exist"),
]


@pytest.mark.parametrize(("change", "more", "said"), REFUSED)
def test_what_must_not_go_is_refused_and_everything_stays(
    world: Path, change: Callable[[Path], Any], more: dict[str, Any], said: str
) -> None:
    change(world)
    before = held(world)
    placed = {name: str(world / value) if isinstance(value, str) else value for name, value in more.items()}
    with pytest.raises(InputError, match=said):
        run(world, **placed)
    assert held(world) == before and state(world) == "served" and (world / "model").exists()


def test_nothing_goes_unasked_and_an_open_request_is_not_closed(world: Path, made: Path) -> None:
    before = held(world)
    found, said = run(world, yes=False)
    assert said[-1] == "nothing was removed" and held(world) == before and state(world) == "served" and not found.done
    given = {"run": str(made / "out"), "ledger": str(made / "ledger")}
    with pytest.raises(InputError, match="the verdict does not pass, so request R1 is open"):
        run(world, **given)


def test_what_stays_keeps_the_request_from_being_sealed(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = workspace.run_folder(world / "half")
    found = purge.rows_left()
    given = ["seal", str(world / "out"), "--ledger", str(world / "ledger"), "--yes"]
    with pytest.MonkeyPatch.context() as patch, workspace.locked(half):  # a run took it up after it was listed
        patch.setattr(purge, "rows_left", lambda: found)
        assert command_line.main(given) == 1
    assert "R1 is not sealed" in capsys.readouterr().out and state(world) == "sealing" and half.exists()
    assert command_line.main([*given, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["state"] == "sealed"
    check_sealed(world)


def interrupted(world: Path, seal_once: Callable[[Path], Any]) -> None:
    """Ends the sealing at each removal in turn: the request is sealed at no time before all is gone, and then is."""
    for steps in range(20):
        child = os.fork()
        if not child:
            left, remove = [steps], purge.remove

            def counted(found: Any) -> list[Path]:
                left[0] -= 1  # noqa: B023
                if left[0] < 0:  # noqa: B023
                    os._exit(9)
                return remove(found)  # noqa: B023

            purge.remove = counted
            seal_once(world)
            os._exit(0)
        ended = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert state(world) == ("sealing" if ended else "sealed"), f"after {steps} steps: {state(world)}"
        if not ended:
            break
    check_sealed(world)
    removed = ledger.read(world / "ledger").requests["R1"].of(entries.Sealed)[0].removed
    assert len(removed) == 5  # also what went before the interruptions


def test_an_interrupted_sealing_goes_on_and_never_pretends(world: Path) -> None:
    interrupted(world, run)


def pretending(world: Path) -> None:
    """Enters the end before the work."""
    with ledger.held(world / "ledger", "a test") as (known, _):
        known = known.with_entry(entries.Sealing(request="R1", date="2026", remove=()))
        known.with_entry(entries.Sealed(request="R1", date="2026", removed=(), elsewhere=(), forced=False))
    for one in purge.rows_left():
        purge.remove([one])


def test_the_check_rejects_a_sealing_that_pretends(world: Path) -> None:
    with pytest.raises(AssertionError, match="after 0 steps: sealed"):
        interrupted(world, pretending)
