"""`record verify`: every hash of a finished run is made again, and each thing that was changed is named."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import expunge
from e2e import little
from expunge.cli import command_line
from expunge.files import hashing, plain_json
from expunge.records import record, verify

SCHEMA = Path(verify.__file__).with_name("record.schema.json")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with its inputs beside it, and the key that it was made with."""
    folder = tmp_path_factory.mktemp("verify")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "settings"))
        run = little.unlearn(folder / "out", **little.write_all(folder))
    assert run.record.files == record.read(run.output).files
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy that may be spoilt. Its record names the inputs where they were first, which stay as they are."""
    shutil.copytree(made, tmp_path / "copy")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "copy" / "settings"))
    return tmp_path / "copy"


def states(capsys: pytest.CaptureFixture[str], *flags: str) -> tuple[int, dict[str, Any]]:
    code = command_line.main(["record", "verify", *flags, "--json"])
    told = json.loads(capsys.readouterr().out)
    return code, {item["name"]: item["state"] for item in told["items"]}


def test_all_is_the_same_and_of_the_schemas_form(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = states(capsys, str(here / "out"))
    assert code == 0 and set(found.values()) == {"same"}
    wanted = {"code", "model: model", "model: output", "rows: forget", "file: forget", "rows: retain", "rows: holdout"}
    wanted |= {"README.md", "model.safetensors", "tokenizer.json", "config.json", "ids of 6 forget rows"}
    inner = "report.html report.md config.yaml log.jsonl evidence/original.npz evidence/unlearned.npz"
    assert wanted | {f"expunge/{name}" for name in inner.split()} <= found.keys()
    Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(little.raw(here / "out"))


def _append(file: str) -> Callable[[Path], list[str]]:
    def change(folder: Path) -> list[str]:
        with (folder / file).open("ab") as content:
            content.write(b" ")
        return []

    return change


def _edit_record(name: str, value: Any) -> Callable[[Path], list[str]]:
    def change(folder: Path) -> list[str]:
        content = little.raw(folder / "out")
        content["hashes"] |= {name: value}
        plain_json.write_json(record.find(folder / "out"), content)
        return []

    return change


def _other_id(folder: Path) -> list[str]:
    content = little.raw(folder / "out")
    content["rows"][0]["id"], content["rows"][1]["id"] = content["rows"][1]["id"], content["rows"][0]["id"]
    plain_json.write_json(record.find(folder / "out"), content)
    return []


def _new_file(folder: Path) -> list[str]:
    (folder / "out" / "modeling_new.py").write_text("", encoding="utf-8")
    return []


def _no_page(folder: Path) -> list[str]:
    (folder / "out" / "expunge" / "report.md").unlink()
    return []


def _link(folder: Path) -> list[str]:
    (folder / "out" / "README.md").unlink()
    (folder / "out" / "README.md").symlink_to(folder / "forget.jsonl")
    return []


def _other_rows(folder: Path) -> list[str]:
    little.write_rows(folder / "forget.jsonl", "forget", range(1, 7))
    return ["--forget", str(folder / "forget.jsonl")]


def _other_model(folder: Path) -> list[str]:
    _append("model/model.safetensors")(folder)
    return ["--model", str(folder / "model")]


DIFFERENT: dict[str, tuple[Callable[[Path], list[str]], set[str]]] = {
    "weights": (_append("out/model.safetensors"), {"model.safetensors", "model: output"}),
    "tokenizer": (_append("out/tokenizer.json"), {"tokenizer.json", "model: output"}),
    "evidence": (_append("out/expunge/evidence/unlearned.npz"), {"expunge/evidence/unlearned.npz"}),
    "page": (_append("out/expunge/report.html"), {"expunge/report.html"}),
    "page gone": (_no_page, {"expunge/report.md"}),
    "file more": (_new_file, {"modeling_new.py"}),
    "link": (_link, {"README.md"}),
    "rows": (_other_rows, {"file: forget", "rows: forget", "ids of 6 forget rows"}),
    "ids": (_other_id, {"ids of 6 forget rows"}),
    "original": (_other_model, {"model: model"}),
    "code": (_edit_record("code", "0" * 16), {"code"}),
}


@pytest.mark.parametrize("case", DIFFERENT)
def test_what_was_changed_is_named(case: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change, wanted = DIFFERENT[case]
    flags = change(here)
    code, found = states(capsys, str(here / "out"), *flags)
    assert code == 3 and {name for name, state in found.items() if state == "differs"} == wanted


def test_what_cannot_be_checked_is_said_and_is_no_difference(
    here: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, found = states(capsys, str(here / "out"), "--retain", str(tmp_path / "gone.jsonl"), "--model", "gone")
    unknown = {name for name, state in found.items() if state == "cannot be checked"}
    assert code == 0 and unknown == {"rows: retain", "model: model"}
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "another key"))
    assert command_line.main(["record", "verify", str(here / "out")]) == 0
    said = capsys.readouterr().out
    assert said.count("it was written under another key") == 3 and "the record itself has SHA-256" in said


@pytest.mark.parametrize("flags", [["verify"], ["verify", "nowhere"], ["check", "x"], []])
def test_wrong_input(flags: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["record", *flags]) == 2
    assert capsys.readouterr().out == ""


def test_a_key_that_others_can_read_is_refused(here: Path) -> None:
    os.chmod(here / "settings" / "expunge" / "row-hash.key", 0o644)
    with pytest.raises(expunge.errors.InputError, match="others may read the key"):
        hashing.key()
