"""A curvature that outlives its run: fitted once, saved, given to requests on the model and on what was made of it."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonschema import Draft202012Validator
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import expunge
from e2e import little
from e2e.newton import OPTIONS, settings
from expunge import pipeline
from expunge.cli import command_line
from expunge.config import commands
from expunge.errors import InputError
from expunge.files import hashing
from expunge.intake import sets
from expunge.loop import trial
from expunge.model import load
from expunge.records import factors, reuse, verify


def fitted(world: Path, output: Path, **more: Any) -> Path:
    given = {key: value for key, value in settings(world).items() if key not in ("forget", "force")}
    return expunge.fit_curvature(output=str(output), **(given | more))


@pytest.fixture(scope="module")
def made(little_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the key, the curvature of the world's original, and a run that it was given to."""
    folder = tmp_path_factory.mktemp("curvature")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "settings"))
        patch.setenv("EXPUNGE_CACHE", str(folder / "cache"))
        fitted(little_world, folder / "factors")
        expunge.unlearn(output=str(folder / "out"), curvature=str(folder / "factors"), **settings(little_world))
    return folder


@pytest.fixture(autouse=True)
def same_key(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(made / "settings"))


def weights(output: Path) -> dict[str, torch.Tensor]:
    return load_file(output / "model.safetensors")


def test_saved_factors_make_the_same_weights_as_fitted_ones(little_world: Path, made: Path, tmp_path: Path) -> None:
    """Bit for bit, on the same model; factors of other rows make others."""
    plain = expunge.unlearn(output=str(tmp_path / "plain"), **settings(little_world))
    one, other = weights(made / "out"), weights(plain.output)
    assert one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
    start = weights(little_world / "original")
    assert any(not torch.equal(one[name], start[name]) for name in one)
    few = fitted(little_world, tmp_path / "few", options=OPTIONS | {"fit_rows": 6})
    run = expunge.unlearn(output=str(tmp_path / "other"), curvature=str(few), **settings(little_world))
    assert any(not torch.equal(one[name], part) for name, part in weights(run.output).items())


def second(world: Path, made: Path, folder: Path, **more: Any) -> dict[str, Any]:
    """A request on the output of the first run: some of what was kept then is to go now."""
    lines = (world / "retain.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "second.jsonl").write_text("".join(lines[:8]), encoding="utf-8")
    (folder / "rest.jsonl").write_text("".join(lines[8:]), encoding="utf-8")
    asked = {"forget": str(folder / "second.jsonl"), "retain": str(folder / "rest.jsonl"), "model": str(made / "out")}
    return settings(world, **asked) | more


def test_a_child_takes_its_parents_factors_and_says_how_far_it_has_gone(
    little_world: Path, made: Path, tmp_path: Path
) -> None:
    """The first run spoilt this little model, so its child is told to be far from it; and rows that were kept then and
    are to go now are among those that the factors were fitted on."""
    asked = second(little_world, made, tmp_path)
    said: list[str] = []
    run = expunge.unlearn(say=said.append, output=str(tmp_path / "child"), curvature=str(made / "factors"), **asked)
    found = run.record.method.notes["curvature"]
    assert found["generations"] == 1 and found["hash"] == run.record.hashes["curvature"]
    rows = {row.id for row in run.record.rows}
    assert found["forget_rows_in_fit"] and set(found["forget_rows_in_fit"]) <= rows
    assert found["drift"]["large"] and not found["drift"]["same_rows"]  # some of the first rows are not given again
    assert any(line.startswith("warning: the curvature was fitted 1 run(s) before") for line in said)
    assert any("has drifted" in limit for limit in run.record.limits)
    assert str(made / "factors") in {one.where for one in run.record.holders}
    assert run.record.method.notes["rows"]["fit"] == 0
    checked = verify.verify(verify.Verify(record=str(run.output)))
    assert [item for item in checked if item.state != "same"] == []
    assert "curvature" in {item.name for item in checked}
    grandchild = second(little_world, made, tmp_path, model=str(run.output), forget=settings(little_world)["forget"])
    assert _given(grandchild, made).generations == 2
    (run.output / "extra.json").write_text("{}", encoding="utf-8")  # its record is no longer that of these files
    with pytest.raises(InputError, match="no record leads from one to the other"):
        _given(grandchild, made)


def _given(asked: dict[str, Any], made: Path) -> reuse.Given:
    config = commands.Unlearn(curvature=str(made / "factors"), **asked)
    config = replace(config, options=trial.method_of(config.method, config.options))
    found = reuse.given(config, sets.check(config), lambda line: None)
    assert found is not None
    return found


def test_the_very_model_has_not_drifted(little_world: Path, made: Path) -> None:
    content = little.raw(made / "out")
    found = content["method"]["notes"]["curvature"]
    assert found["generations"] == 0 and found["drift"] is None and found["forget_rows_in_fit"] == []
    assert content["hashes"]["curvature"] == factors.read(str(made / "factors")).hash
    schema = json.loads(Path(verify.__file__).with_name("record.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(content)


def test_what_is_saved_holds_no_text_and_is_the_owners_alone(made: Path) -> None:
    folder = made / "factors"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in folder.iterdir()} == {0o600}
    assert {file.name for file in folder.iterdir()} == {"curvature.json", "factors.safetensors"}
    content = json.loads((folder / "curvature.json").read_text(encoding="utf-8"))
    assert len(content["rows"]["ids"]) == content["counts"]["rows"] == 20
    with safe_open(folder / "factors.safetensors", "pt") as stored:
        words = (folder / "curvature.json").read_text(encoding="utf-8") + json.dumps(stored.metadata())
    assert "retain 1" not in words and "jsonl" not in words


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"method": "loss_matching", "options": None}, r"--method loss_matching: it takes no curvature of two factors"),
    ({"model": "retrained"}, r"the curvature of another model .* no record leads"),
    ({"options": OPTIONS | {"curvature_options": {"labels": "data"}}}, r"fitted with curvature_options .*noise.*data"),
    ({"options": OPTIONS | {"curvature": "identity"}}, r"nothing is fitted"),
    ({"subspace": "lora"}, r"fitted with --subspace full, and this run asks for lora"),
    ({"curvature": "nowhere"}, r"nowhere: no such folder for --curvature"),
    ({"curvature": "model"}, r"curvature\.json: the description of the curvature does not exist"),
]


@pytest.mark.parametrize(("changed", "words"), REFUSED)
def test_strangers_are_refused_by_name_before_a_model_is_loaded(
    changed: dict[str, Any], words: str, little_world: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(load, "model_of", None)  # nothing is loaded
    named = {"curvature": made / "nowhere" if changed.get("curvature") == "nowhere" else made / "factors"}
    if changed.get("curvature") == "model":
        named = {"curvature": little_world / "original"}
    if changed.get("model"):
        named["model"] = little_world / changed["model"]
    given = settings(little_world) | changed | {key: str(path) for key, path in named.items()}
    with pytest.raises(InputError, match=words):
        expunge.unlearn(output=str(tmp_path / "out"), **given)
    assert not (tmp_path / "out").exists()


def _exchanged(tensors: dict[str, torch.Tensor]) -> None:
    """S and A of a square layer."""
    sizes = {name: part.shape for name, part in tensors.items()}
    one, other = next((a, b) for a in sizes for b in sizes if a < b and sizes[a] == sizes[b] and len(sizes[a]) == 2)
    tensors[one], tensors[other] = tensors[other], tensors[one]


@pytest.mark.parametrize("sealed", [False, True])
def test_exchanged_factors_are_caught(sealed: bool, little_world: Path, made: Path, tmp_path: Path) -> None:
    """By the hash of the file; and where somebody made that again, by what the settings say of each factor."""
    folder = Path(shutil.copytree(made / "factors", tmp_path / "factors"))
    file = folder / "factors.safetensors"
    with safe_open(file, "pt") as stored:
        metadata = stored.metadata()
    tensors = load_file(file)
    _exchanged(tensors)
    save_file(tensors, file, metadata)
    if sealed:
        content = json.loads((folder / "curvature.json").read_text(encoding="utf-8"))
        content["tensors"] = hashing.full_hash(file)
        (folder / "curvature.json").write_text(json.dumps(content), encoding="utf-8")
    words = "is not the one that was written" if sealed else "is not the file that curvature.json was written for"
    with pytest.raises(InputError, match=words):
        expunge.unlearn(output=str(tmp_path / "out"), curvature=str(folder), **settings(little_world))


@pytest.mark.parametrize(
    ("entry", "value"),
    [(("format",), 2), (("model",), []), (("rows", "ids"), ["a row"]), (("layers",), {"a": {}}), (("tensors",), None)],
)
def test_settings_that_were_edited_are_refused(entry: tuple[str, ...], value: Any, made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made / "factors", tmp_path / "factors"))
    content = json.loads((folder / "curvature.json").read_text(encoding="utf-8"))
    inner = content
    for name in entry[:-1]:
        inner = inner[name]
    inner[entry[-1]] = value
    (folder / "curvature.json").write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"Name a folder that expunge curvature wrote"):
        factors.read(str(folder))


def test_the_command(little_world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without retain rows there is nothing to fit; an output is never overwritten; a plan's fit is free."""
    flags = ["--model", str(little_world / "original"), "--retain", str(little_world / "retain.jsonl")]
    out = str(tmp_path / "factors")
    assert command_line.main(["curvature", *flags, "--output", out, "--options.fit-rows", "4"]) == 0
    assert "4 rows" in capsys.readouterr().out
    assert command_line.main(["curvature", *flags, "--output", out]) == 2
    assert "never overwritten" in capsys.readouterr().err
    assert command_line.main(["curvature", *flags[:2], "--output", str(tmp_path / "none")]) == 2
    assert "--retain is missing" in capsys.readouterr().err
    with pytest.raises(InputError, match="--method npo: it takes no curvature of two factors"):
        fitted(little_world, tmp_path / "npo", method="npo", options=None)


def test_a_plan_counts_no_fit_where_one_is_given(little_world: Path, made: Path) -> None:
    config = commands.Plan(**settings(little_world))
    plain, given = (
        pipeline.run_plan(replace(config, curvature=folder)).estimate.methods[0].row_passes
        for folder in (None, str(made / "factors"))
    )
    assert plain - given == pytest.approx(20)
    said = expunge.plan(**settings(little_world), curvature=str(made / "factors")).lines
    assert any(line.startswith("curvature: fitted on 20 rows of this model") for line in said)
