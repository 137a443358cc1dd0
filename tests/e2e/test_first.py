"""A further request is held to the first model of its line, as far as the records lead there and all rows are given."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import expunge
from e2e import little
from expunge.config import commands
from expunge.files import hashing, plain_json
from expunge.intake import sets
from expunge.intake.sets import Checked
from expunge.records import first as firsts
from expunge.records import record, verify

NEWTON: dict[str, Any] = {"method": "margin_newton", "options": {"iterations": 2, "restorations": 1}}


@pytest.fixture(scope="module")
def line(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished requests and the rows of a third, and the key that all use."""
    folder = tmp_path_factory.mktemp("line")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "settings"))
        little.unlearn(folder / "one", **little.write_all(folder))
        for name in ("second", "third"):
            little.write_rows(folder / f"{name}.jsonl", name, range(4))
        more = {"earlier": [str(folder / "forget.jsonl")], "forget": str(folder / "second.jsonl")}
        little.unlearn(folder / "two", **settings(folder, **more, model=str(folder / "one")))
    return folder


@pytest.fixture(autouse=True)
def same_key(line: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(line / "settings"))


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    given = {role: str(folder / f"{role}.jsonl") for role in ("retain", "holdout")}
    return given | {"model": str(folder / "two"), "forget": str(folder / "third.jsonl")} | more


def earlier(folder: Path) -> tuple[str, ...]:
    return str(folder / "forget.jsonl"), str(folder / "second.jsonl")


def asked(folder: Path, **more: Any) -> tuple[Checked, list[str]]:
    said: list[str] = []
    config = commands.Unlearn(**settings(folder, **({"earlier": earlier(folder)} | more)))
    return firsts.held_to(config, sets.check(config), said.append), said


def copied(folder: Path, to: Path) -> Path:
    """The line with everything in it, at another place, where records lead to one another."""
    shutil.copytree(folder, to)
    for name in ("one", "two"):
        file = record.find(to / name)
        file.write_text(file.read_text(encoding="utf-8").replace(str(folder), str(to)), encoding="utf-8")
    content = little.raw(to / "two")
    content["parent"]["record"] = hashing.full_hash(record.find(to / "one"))
    plain_json.write_json(record.find(to / "two"), content)
    return to


def test_the_first_model_is_found_and_said(line: Path) -> None:
    found, said = asked(line)
    assert found.first is not None and found.first.path == str(line / "model")
    assert said == [
        f"kept: as {line / 'model'} knew it, which 2 run(s) before this one began with; what they removed stays so"
    ]


def test_a_run_is_held_to_it_and_its_record_says_so(line: Path, tmp_path: Path) -> None:
    run = little.unlearn(tmp_path / "out", **settings(line, earlier=list(earlier(line)), **NEWTON))
    content = little.raw(run.output)
    assert content["method"]["notes"]["held_to"] == str(line / "model")
    assert content["method"]["notes"]["rows"]["earlier"] == 8
    assert content["hashes"]["first"] == little.raw(line / "one")["hashes"]["model"]
    begun = content["method"]["proposals"][0]["retain_kl"]["before"]
    assert begun > 0  # from the first model's distributions to the given one's
    page = run.report.read_text(encoding="utf-8")
    assert str(line / "model") in page and "The KL is that from the first model" in page
    checked = {item.name: item.state for item in verify.verify(verify.Verify(record=str(run.output)))}
    assert checked["model: first"] == "same" and set(checked.values()) == {"same"}
    alone = {**NEWTON, "options": NEWTON["options"] | {"earlier_rows": 0}}
    plain = little.unlearn(tmp_path / "given", **settings(line, earlier=list(earlier(line)), **alone))
    content = little.raw(plain.output)
    assert "held_to" not in content["method"]["notes"] and "first" not in content["hashes"]
    assert content["method"]["proposals"][0]["retain_kl"]["before"] == 0


def test_a_plan_counts_what_it_takes(line: Path) -> None:
    def planned(**more: Any) -> Any:
        return expunge.plan(**settings(line, method="margin_newton", earlier=list(earlier(line)), **more))

    held, alone = planned(), planned(options={"earlier_rows": 0})
    assert any(said.startswith(f"kept: as {line / 'model'} knew it") for said in held.lines)
    assert not any(said.startswith("kept: as") for said in alone.lines)
    assert held.estimate.methods[0].row_passes > alone.estimate.methods[0].row_passes


def test_rows_that_were_not_given_are_counted(line: Path) -> None:
    found, said = asked(line, earlier=(str(line / "forget.jsonl"),))
    assert (
        found.first is None and "4 of the 10 rows that earlier requests removed were not given (--earlier)" in said[0]
    )
    assert said[0].startswith("note: rows are kept as the given model knows them, so what requests lose adds up: ")
    found, said = asked(line, earlier=())
    assert found.first is None and "10 of the 10 rows" in said[0]


def test_another_key_cannot_tell(line: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    found, said = asked(line)
    assert found.first is None and "under another key" in said[0]


def test_a_line_that_does_not_lead_there_is_said(line: Path, tmp_path: Path) -> None:
    def lack(name: str, spoil: Any) -> str:
        folder = copied(line, tmp_path / name)
        spoil(folder)
        found, said = asked(folder)
        assert found.first is None and len(said) == 1
        return said[0]

    found, _ = asked(copied(line, tmp_path / "whole"))
    assert found.first is not None and found.first.path == str(tmp_path / "whole" / "model")
    gone = lack("gone", lambda folder: shutil.rmtree(folder / "model"))
    assert gone.endswith(f"no folder of the first model is at {tmp_path / 'gone' / 'model'} any more")
    lost = lack("lost", lambda folder: shutil.rmtree(folder / "one"))
    assert lost.endswith(f"no record of the run that wrote {tmp_path / 'lost' / 'one'} is there any more")
    other = lack("other", lambda folder: moved(folder / "model"))
    assert other.endswith(f"{tmp_path / 'other' / 'model'} is not the model any more that the first run was given")
    changed = lack("changed", lambda folder: moved(folder / "two"))
    assert changed.endswith(f"{tmp_path / 'changed' / 'two'} is not the model that the record beside it is about")


def moved(folder: Path) -> None:
    """Other weights in place of a model's."""
    file = folder / "model.safetensors"
    save_file({name: tensor + torch.ones_like(tensor) for name, tensor in load_file(file).items()}, file)


def test_a_model_that_no_run_wrote_is_no_further_request(line: Path) -> None:
    found, said = asked(line, model=str(line / "model"), earlier=())
    assert found.first is None and said == []
