"""A second request on the output of a first: what was served is known again, and judged again."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import expunge
from e2e import little
from expunge.config import commands, options, recipes
from expunge.errors import InputError
from expunge.files import hashing, plain_json
from expunge.intake import sets
from expunge.records import lineage, record, verify


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished first request, the rows of a second, and the key that both use."""
    folder = tmp_path_factory.mktemp("sequence")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(folder / "settings"))
        little.unlearn(folder / "first", **little.write_all(folder))
    little.write_rows(folder / "second.jsonl", "second", range(4))
    return folder


@pytest.fixture(autouse=True)
def same_key(first: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(first / "settings"))


def settings(folder: Path, **more: Any) -> dict[str, Any]:
    """The second request."""
    given = {"model": "first", "forget": "second.jsonl", "retain": "retain.jsonl", "holdout": "holdout.jsonl"}
    return {role: str(folder / name) for role, name in given.items()} | more


def traced(folder: Path, **more: Any) -> tuple[lineage.Lineage, list[str]]:
    said: list[str] = []
    asked = commands.Unlearn(**settings(folder, **more))
    return lineage.trace(asked, sets.check(asked), said.append), said


def ids(output: Path, part: str = "rows") -> list[str]:
    content = little.raw(output)
    return [row["id"] for row in (content["earlier"] if part == "earlier" else content)["rows"]]


def test_earlier_rows_are_judged_again_in_verdict_record_and_report(first: Path, tmp_path: Path) -> None:
    earlier = [str(first / "forget.jsonl"), str(first / "second.jsonl")]  # the second file is asked for anew
    run = little.unlearn(tmp_path / "out", **settings(first, earlier=earlier))
    content = little.raw(run.output)
    schema = json.loads(Path(verify.__file__).with_name("record.schema.json").read_text(encoding="utf-8"))
    Draft202012Validator(schema).validate(content)
    parent, again = content["parent"], content["earlier"]
    assert parent["record"] == hashing.full_hash(first / "first" / "expunge" / "record.json")
    assert parent["same_weights"] and parent["same_key"] and not parent["missing"] and not parent["served_again"]
    assert parent["served"] == sorted(ids(first / "first")) and ids(run.output, "earlier") == ids(first / "first")
    begun = [row["loss"]["original"] for row in little.raw(first / "first")["rows"]]
    assert [row["loss"]["first"] for row in again["rows"]] == begun
    assert again["verdict"] == "cannot tell" and not content["verdict"]["passes"]
    assert content["verdict"]["sentence"].endswith(
        "; of earlier requests 0 of 6 rows are forgotten (6 cannot be told)."
    )
    assert {"model", "forget", "earlier"} <= content["hashes"].keys()
    assert {s["metric"] for s in content["scores"] if s["set"] == "earlier"} >= {"loss", "knowledge"}
    page, card = run.report.read_text(encoding="utf-8"), (run.output / "README.md").read_text(encoding="utf-8")
    assert page.count("Rows of earlier requests") >= 3 and "Rows of earlier requests: ? cannot tell" in card
    held = {one["where"]: one["what"] for one in content["holders"]}
    assert held[str(first / "model")].endswith("of earlier requests") and str(first / "first") in held
    checked = verify.verify(verify.Verify(record=str(run.output)))
    assert [item.name for item in checked if item.state != "same"] == []
    assert {"rows: earlier", "record of the parent run"} <= {item.name for item in checked}
    third, said = traced(
        first,
        model=str(run.output),
        retain=None,
        forget=str(little.write_rows(tmp_path / "third.jsonl", "third", range(2))),
    )
    assert third.parent is not None and len(third.parent.served) == 10  # both requests before
    assert third.losses[ids(first / "first")[0]] == begun[0]
    assert len(said) == 2


def test_earlier_rows_that_are_missing_are_named(first: Path) -> None:
    found, said = traced(first)
    assert found.parent is not None and list(found.parent.missing) == sorted(ids(first / "first"))
    assert "warning: 6 rows of earlier requests were not given" in said[1] and found.parent.missing[0] in said[1]
    planned = expunge.plan(**settings(first), method="gradient_ascent").lines
    assert said[1] in planned
    some = little.write_rows(first / "some.jsonl", "forget", range(2))
    found, said = traced(first, earlier=(str(some),))
    assert found.parent is not None and len(found.parent.missing) == 4 and "warning: 4 rows" in said[1]


def test_rows_that_were_served_already_are_said_to_be(first: Path, tmp_path: Path) -> None:
    both = tmp_path / "both.jsonl"
    both.write_bytes((first / "second.jsonl").read_bytes() + (first / "forget.jsonl").read_bytes())
    found, said = traced(first, forget=str(both))
    assert found.parent is not None and list(found.parent.served_again) == ids(first / "first")
    assert "note: 6 of 10 forget rows were served by an earlier run" in said[1] and len(said) == 2
    traced(first, forget=str(first / "forget.jsonl"))  # served, and the record does not say that they are forgotten


def test_a_request_that_was_served_is_refused_unless_forced(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first / "first", tmp_path / "done")
    content = little.raw(tmp_path / "done")
    for row in content["rows"]:
        row["verdict"] = "forgotten"
    plain_json.write_json(record.find(tmp_path / "done"), content)
    again = {"model": str(tmp_path / "done"), "forget": str(first / "forget.jsonl")}
    with pytest.raises(InputError, match=r"all 6 rows were served already.*--force"):
        traced(first, **again)
    found, _ = traced(first, **again, force=True)
    assert found.parent is not None and len(found.parent.served_again) == 6


@pytest.mark.parametrize("given", [True, False])
def test_earlier_rows_are_not_to_be_kept(first: Path, given: bool) -> None:
    retain = str(little.write_rows(first / "kept.jsonl", "forget", range(3, 5)))
    earlier = (str(first / "forget.jsonl"),) if given else ()
    with pytest.raises(InputError, match="also in the retain set" if given else "forgotten by an earlier request"):
        traced(first, retain=retain, earlier=earlier)


def test_what_the_runs_before_lost_is_said_before_and_after(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first / "first", tmp_path / "first")
    content = little.raw(tmp_path / "first")
    assert not [reason for reason in content["verdict"]["rest_reasons"] if "in sequence" in reason]
    for score in content["scores"]:
        if (score["metric"], score["set"]) == ("knowledge", "retain"):
            score["value"] = {"original": 1.0, "unlearned": 0.9}.get(score["model"], score["value"])
    plain_json.write_json(record.find(tmp_path / "first"), content)
    given = settings(first, model=str(tmp_path / "first"))
    _, said = traced(first, model=str(tmp_path / "first"))
    warned = "warning: 1 run in sequence: of the answers to keep the first model knew 1.00, then 0.90 were known."
    assert any(line.startswith(warned) and str(first / "model") in line for line in said)
    run = little.unlearn(tmp_path / "out", **given)
    reasons = little.raw(run.output)["verdict"]["rest_reasons"]
    assert reasons[-1].startswith("2 runs in sequence: of the answers to keep the first model knew 1.00, then 0.90, ")
    assert "2 runs in sequence" in run.report.read_text(encoding="utf-8")


def test_another_key_cannot_tell(first: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    found, said = traced(first, forget=str(first / "forget.jsonl"))
    assert found.parent is not None and not found.parent.served_again and "under another key" in said[1]


def test_a_broken_record_is_named(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first / "first", tmp_path / "broken")
    record.find(tmp_path / "broken").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match=r"record\.json, line 1: the record is not JSON"):
        traced(first, model=str(tmp_path / "broken"))


def test_a_model_without_a_record_has_no_parent(first: Path) -> None:
    found, said = traced(first, model=str(first / "model"))
    assert found == lineage.Lineage() and said == []


def test_earlier_rows_come_from_recipes_and_the_record_replays(first: Path, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("earlier: [a.jsonl, sub/b.jsonl]\n", encoding="utf-8")
    read = options.build(commands.Unlearn, recipes.from_yaml(recipe, commands.Unlearn), "recipe")
    assert recipes.earlier_paths(read) == [str(tmp_path / "a.jsonl"), str(tmp_path / "sub" / "b.jsonl")]
    assert recipes.resolved(read)["earlier"] == tuple(recipes.earlier_paths(read))
    assert recipes.resolved(commands.Unlearn())["earlier"] == () and "earlier" not in recipes.resolved(
        commands.Compare()
    )
