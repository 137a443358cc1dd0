"""Working folders: for their owner only, gone at the end, and in use exactly as long as a process holds them."""

import subprocess
import sys
from pathlib import Path

import pytest

from expunge.errors import InputError
from expunge.runs import workspace

HOLD = "import sys,time; from expunge.runs import workspace; from pathlib import Path\n"
HOLD += "with workspace.locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("EXPUNGE_CACHE", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "expunge"


def test_folders_follow_the_environment(tmp_path: Path, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert workspace.state_folder() == state
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    assert workspace.state_folder() == tmp_path / "cache" / "state" and workspace.cache_folder() == tmp_path / "cache"


def test_run_folders_are_private_and_one_for_each_output(state: Path, tmp_path: Path) -> None:
    state.mkdir(parents=True, mode=0o755)
    folder = workspace.run_folder(tmp_path / "out")
    assert folder == workspace.run_folder(str(tmp_path / "out")) != workspace.run_folder(tmp_path / "other")
    for each in (folder, folder.parent, state):
        assert each.stat().st_mode & 0o777 == 0o700


def test_temporary_folders_are_private_and_end_with_an_exception() -> None:
    with pytest.raises(KeyboardInterrupt), workspace.temporary("cell") as folder:
        (folder / "text").write_text("a row", encoding="utf-8")
        assert folder.stat().st_mode & 0o777 == 0o700 and workspace.in_use(folder)
        raise KeyboardInterrupt
    assert not folder.exists()


def test_a_folder_is_in_use_until_its_process_is_killed(tmp_path: Path) -> None:
    folder = workspace.run_folder(tmp_path / "out")
    assert not workspace.in_use(folder)
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert workspace.in_use(folder)
        with pytest.raises(InputError, match="another run"), workspace.locked(folder):
            pass
        other.kill()
    assert not workspace.in_use(folder)


def test_a_place_that_cannot_be_made_is_explained(state: Path, tmp_path: Path) -> None:
    state.parent.write_text("a file", encoding="utf-8")
    with pytest.raises(InputError, match="no folder for working files"):
        workspace.run_folder(tmp_path / "out")


def test_a_folder_beside_an_output_is_noted_while_it_is_written(tmp_path: Path) -> None:
    with workspace.noted(tmp_path / ".out-abc"):
        (note,) = (workspace.state_folder() / "temporary").iterdir()
        assert (note / workspace.BESIDE).read_text(encoding="utf-8") == str(tmp_path / ".out-abc")
        assert workspace.in_use(note)
    assert not note.exists()
