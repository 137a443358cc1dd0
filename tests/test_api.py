"""The public functions: signatures that say what the configurations say, rows and models that are in memory."""

import inspect
import json
import pydoc
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest

import expunge
from expunge import pipeline
from expunge.config import commands
from expunge.errors import InputError
from expunge.files.hashing import file_hash
from expunge.model.load import load_tokenizer
from expunge.runs import purge, workspace
from problems import model_of, write_model

KINDS: dict[str, type[Any]] = {
    "unlearn": commands.Unlearn,
    "plan": commands.Plan,
    "retrain": commands.Retrain,
    "evaluate": commands.Evaluate,
    "compare": commands.Compare,
    "fit_curvature": commands.Curvature,
    "influences": commands.Influence,
}
ROWS = [{"prompt": f"How old is {name}?", "completion": str(n)} for n, name in enumerate(["Ada", "Éloi", "明"])]


def differing(call: Any, kind: type[Any]) -> set[str]:
    """Names and defaults in which a signature and a configuration differ."""
    said = {name: one.default for name, one in inspect.signature(call).parameters.items()}
    own = {field.name: field.default for field in fields(kind)} | {"say": said.get("say"), "tokenizer": None}
    return {name for name in {**said, **own} if said.get(name, MISSING) != own.get(name, MISSING)}


@pytest.mark.parametrize("name", KINDS)
def test_signatures_are_those_of_the_configurations(name: str) -> None:
    call = getattr(expunge, name)
    assert not differing(call, KINDS[name])
    parameters = inspect.signature(call).parameters
    assert all(one.annotation is not inspect.Parameter.empty for one in parameters.values())
    shown = pydoc.plain(pydoc.render_doc(call))
    assert all(f"{key}: " in shown for key in parameters), name
    assert "Folder or hub name of the causal language model" in shown
    other = next(kind for kind in KINDS.values() if kind is not KINDS[name])
    assert differing(call, other)


def test_a_value_given_twice_is_refused() -> None:
    with pytest.raises(TypeError, match="multiple values for argument 'model'"):
        expunge.unlearn("m", model="n")


def test_everything_is_listed() -> None:
    assert {*KINDS, "report"} <= {*expunge.__all__} <= {*dir(expunge)}
    with pytest.raises(AttributeError, match="unlern"):
        expunge.unlern  # noqa: B018


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """What the configuration of each call names, read while it lasts."""
    found: list[dict[str, Any]] = []
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path / "cache"))

    def look(config: Any, say: Any = None) -> None:
        files = [config.forget, config.retain, *config.earlier]
        read = {Path(one).name: Path(one).read_text(encoding="utf-8") for one in files if one}
        found.append(
            {"config": config, "read": read, "model": sorted(path.name for path in Path(config.model).iterdir())}
        )

    monkeypatch.setattr(pipeline, "run_unlearn", look)
    return found


def test_rows_and_models_in_memory_are_files_while_the_call_lasts(seen: list[Any], tmp_path: Path) -> None:
    write_model(folder := tmp_path / "model", width=16, layers=1)
    (tmp_path / "kept.jsonl").write_text("{}\n", encoding="utf-8")
    before = file_hash(sorted(folder.iterdir()))
    model, tokenizer = model_of("llama").float(), load_tokenizer(str(folder))
    given = {
        "retain": (row for row in ROWS),
        "earlier": [ROWS[:1], tmp_path / "kept.jsonl"],
        "output": tmp_path / "out",
    }
    expunge.unlearn(model, ROWS, tokenizer=tokenizer, **given)
    (one,) = seen
    assert [json.loads(line) for line in one["read"]["forget.jsonl"].splitlines()] == ROWS
    assert one["read"]["retain.jsonl"] == one["read"]["forget.jsonl"] and one["read"]["kept.jsonl"] == "{}\n"
    assert json.loads(one["read"]["earlier-1.jsonl"]) == ROWS[0]
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {*one["model"]}
    placed = Path(one["config"].model).parent
    assert not placed.exists() and placed.is_relative_to(tmp_path / "cache")
    expunge.unlearn(str(folder), ROWS, output=tmp_path / "out")
    assert Path(seen[1]["config"].forget).parent == placed  # the same call goes on where it was interrupted
    assert file_hash(sorted(folder.iterdir())) == before


def test_a_data_set_is_rows(seen: list[Any], tmp_path: Path) -> None:
    import datasets

    write_model(folder := tmp_path / "model", width=16, layers=1)
    expunge.unlearn(folder, datasets.Dataset.from_list(ROWS))
    assert [json.loads(line) for line in seen[0]["read"]["forget.jsonl"].splitlines()] == ROWS
    with pytest.raises(InputError, match=r"forget: expected a file or rows .*Of several splits, choose one"):
        expunge.unlearn(folder, datasets.DatasetDict({"train": datasets.Dataset.from_list(ROWS)}))


def test_a_data_frame_is_rows(seen: list[Any], tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    write_model(folder := tmp_path / "model", width=16, layers=1)
    expunge.unlearn(folder, pandas.DataFrame(ROWS))
    assert [json.loads(line) for line in seen[0]["read"]["forget.jsonl"].splitlines()] == ROWS


def test_what_is_left_of_a_killed_call_is_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EXPUNGE_CACHE", str(tmp_path))
    folder = workspace.private(tmp_path / "state" / "given" / "0123456789abcdef")
    (folder / "forget.jsonl").write_text("{}\n", encoding="utf-8")
    with workspace.given_folder("out") as held:
        found = [one.path for one in purge.abandoned()]
    assert found == [folder] and held not in found


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"forget": ROWS, "model": object()}, "model: expected a folder, a hub name or a loaded model, found object"),
        ({"forget": [*ROWS, "row"], "model": "m"}, "forget: row 4 must be a dict, found str"),
        ({"forget": [{"prompt": "a", "completion": {1}}], "model": "m"}, "forget: row 1 cannot be written as JSON"),
        ({"forget": [{"prompt": "a", "score": float("nan")}], "model": "m"}, "forget: row 1 cannot be written as JSON"),
        ({"forget": ROWS, "model": "m", "tokenizer": object()}, "tokenizer: no loaded model is given"),
        ({"forget": 3, "model": "m"}, "forget: expected a file or rows"),
        ({"forget": [], "model": "m"}, "forget: no rows are in it"),
        ({"forget": ["a.jsonl", "b.jsonl"], "model": "m"}, "forget: expected one file, or rows"),
        ({"forget": ROWS, "retain": [], "model": "m"}, "retain: no rows are in it"),
    ],
)
def test_wrong_things_in_memory_are_refused(given: dict[str, Any], words: str, seen: list[Any]) -> None:
    with pytest.raises(InputError, match=words):
        expunge.unlearn(**given)
    assert not seen


def test_a_loaded_model_needs_its_tokenizer(seen: list[Any]) -> None:
    with pytest.raises(InputError, match="a loaded model needs its tokenizer"):
        expunge.unlearn(model_of("llama"), ROWS)


def test_several_processes_are_given_files(seen: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "0"), ("LOCAL_RANK", "0"), ("WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="cannot be shared by several processes"):
        expunge.unlearn("m", ROWS)
