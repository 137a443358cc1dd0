"""The LUME benchmark from files to report, on the small world's people written in LUME's columns."""

import json
from pathlib import Path

import pytest

import expunge
from expunge.config import recipes
from expunge.errors import InputError


def in_lumes_columns(world: Path, folder: Path, role: str) -> str:
    """Documents are cut after two thirds of their words; people are dealt out to the three tasks."""
    rows = []
    for line, text in enumerate((world / f"{role}.jsonl").read_text(encoding="utf-8").splitlines()):
        row, task = json.loads(text), f"Task{line // 5 % 3 + 1}"
        if "text" in row:
            words = row["text"].split(" ")
            cut = 2 * len(words) // 3
            one = {"id": f'"{line}"sc1', "input": " ".join(words[:cut]), "output": " ".join(words[cut:])}
        else:
            one = {"id": f'"{line}"qa0', "input": row["prompt"], "output": row["completion"]}
        rows.append(one | {"task": task})
    path = folder / f"{role}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def test_retrained_model_scores_well_and_the_original_zero(world: Path, tmp_path: Path) -> None:
    run = expunge.evaluate(
        benchmark="lume",
        mmlu="zero-shot",
        model=str(world / "original"),
        unlearned=str(world / "retrained"),
        output=str(tmp_path / "out"),
        **{role: in_lumes_columns(world, tmp_path, role) for role in ("forget", "retain", "holdout")},
    )
    block = run.record.benchmark
    scores = {model: {**found.parts, **found.terms, **found.beside} for model, found in block.models.items()}
    original, unlearned = scores["original"], scores["unlearned"]
    assert original["knowledge (forget)"].value >= 0.9 and original["regurgitation (forget)"].value > 0.9
    assert unlearned["knowledge (retain)"].value >= 0.9 and unlearned["knowledge (forget)"].value <= 0.1
    assert original["AUC (Task3 documents)"].value == 1.0 and original["MIA"].value == 0.0
    assert unlearned["task aggregate"].value > 0.5 > original["task aggregate"].value
    assert "lm-eval" in unlearned["MMLU"].missing and unlearned["final"].missing == "needs MMLU"
    assert unlearned["knowledge (retain, Task1)"].count > 0
    data = run.record.data
    answers = sum(scores["unlearned"][f"knowledge (retain, Task{n})"].count for n in (1, 2, 3))
    assert answers == data["retain"].answers + (data["guard"].answers if "guard" in data else 0)
    assert "LUME (SemEval-2025 Task 4)" in run.report.read_text(encoding="utf-8")
    recipe = recipes.read_yaml(tmp_path / "out" / "config.yaml")
    assert (recipe["benchmark"], recipe["mmlu"]) == ("lume", "zero-shot")


def test_unknown_benchmarks_and_foreign_rows_are_refused(world: Path, tmp_path: Path) -> None:
    given = {"model": str(world / "original"), "forget": str(world / "forget.jsonl")}
    with pytest.raises(InputError, match=r"no benchmark 'lumee'; did you mean 'lume'"):
        expunge.plan(**given, benchmark="lumee")
    with pytest.raises(InputError, match=r"forget.jsonl, line 1: the row lacks id"):
        expunge.plan(**given, benchmark="lume")
