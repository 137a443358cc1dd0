"""--push-to-hub: one commit of a private repository, without the evidence; what fails leaves the output whole."""

from pathlib import Path
from typing import Any

import pytest

from e2e import little
from expunge.cli.command_line import main
from expunge.records import published

NAME = "someone/unlearned"


class Hub:
    """In place of the hub: what was asked of it."""

    made: dict[str, Any]
    files: dict[str, bytes]
    error: Exception | None = None

    def create_repo(self, name: str, **given: Any) -> str:
        if Hub.error:
            raise Hub.error
        Hub.made = {"name": name, **given}
        return f"https://hub.invalid/{name}"

    def create_commit(self, name: str, operations: Any, commit_message: str) -> None:
        Hub.files = {}
        for one in operations:
            with one.as_file() as content:
                Hub.files[one.path_in_repo] = content.read()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return little.write_world(tmp_path_factory.mktemp("little"))


@pytest.fixture(autouse=True)
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(published, "HfApi", Hub)
    monkeypatch.setattr(published, "get_token", lambda: "a token")
    monkeypatch.setattr(Hub, "error", None)
    Hub.made, Hub.files = {}, {}


def unlearn(world: Path, output: Path, *more: str) -> int:
    rows = [f"--{name}={world / f'{name}.jsonl'}" for name in ("forget", "retain", "holdout")]
    flags = [f"--model={world / 'original'}", f"--output={output}", "--options.iterations=1", "--force", *more]
    return main(["unlearn", *rows, *flags])


def test_the_model_and_its_card_and_nothing_else(world: Path, tmp_path: Path, capsys: Any) -> None:
    assert unlearn(world, tmp_path / "out", f"--push-to-hub={NAME}") in (0, 3)
    assert Hub.made == {"name": NAME, "private": True, "exist_ok": True}
    beside = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").glob("*") if path.is_file()}
    assert Hub.files.keys() == beside and "model.safetensors" in beside
    assert Hub.files["model.safetensors"] == (tmp_path / "out" / "model.safetensors").read_bytes()
    assert b"kept by who made this model" in Hub.files["README.md"] and b"expunge/report" not in Hub.files["README.md"]
    assert f"pushed: https://hub.invalid/{NAME}" in capsys.readouterr().out


def test_a_hub_that_fails_loses_nothing(world: Path, tmp_path: Path, capsys: Any) -> None:
    Hub.error = ConnectionError("no way there\nsecond line")
    assert unlearn(world, tmp_path / "out", f"--push-to-hub={NAME}") == 1
    said = capsys.readouterr().err
    assert "no way there" in said and "second line" not in said and f"hf upload {NAME}" in said
    assert (tmp_path / "out" / "expunge" / "record.json").is_file()


@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("no owner", (), "--push-to-hub no owner"),
        ("unlearned", (), "OWNER/NAME"),
        (NAME, ("--show-rows",), "holds text of rows"),
    ],
)
def test_refused_before_anything(name: str, more: Any, said: str, world: Path, tmp_path: Path, capsys: Any) -> None:
    assert unlearn(world, tmp_path / "out", f"--push-to-hub={name}", *more) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_without_a_token(world: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(published, "get_token", lambda: None)
    assert unlearn(world, tmp_path / "out", f"--push-to-hub={NAME}") == 2
    assert "hf auth login" in capsys.readouterr().err and not (tmp_path / "out").exists()
