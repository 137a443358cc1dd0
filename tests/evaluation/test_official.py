"""The record's block of official scores, and MMLU: a value when lm-eval answers, else missing with the reason."""

import json
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from msgspec import UNSET

from expunge import registry
from expunge.benchmark import Circumstances, Missing
from expunge.evaluation import mmlu, official
from expunge.files.typed import plain
from expunge.runs.distributed import Runtime
from expunge.scoring.evidence import Evidence, SetEvidence
from expunge.scoring.intervals import Score


def evidence(known: bool) -> Evidence:
    """One document and one question of each task, in the sets of a run."""

    def one(said: str) -> SetEvidence:
        return SetEvidence(
            kinds=("document", "answer") * 3, tasks=("Task1", "Task1", "Task2", "Task2", "Task3", "Task3"),
            loss=np.ones(6), targets=np.ones(6), token_loss=np.ones(6), references=("secret",) * 6,
            generations=(said,) * 6, shapes=np.zeros((6, 2)),
        )  # fmt: skip

    return Evidence({"forget": one("secret" if known else "x"), "retain": one("secret"), "judging": one("y")})


MODELS = {"original": evidence(True), "unlearned": evidence(False), "retrained": evidence(False)}


def test_block_holds_every_model_and_no_text() -> None:
    given = {"unlearned": Score(0.4, 0.39, 0.41, 14042)}
    block = official.block("lume", MODELS, Circumstances(), mmlu=given)
    assert block is not None and block.title == "LUME (SemEval-2025 Task 4)"
    assert list(block.models) == ["original", "unlearned", "retrained"]
    assert len(block.models["unlearned"].terms) == 12
    parts = {model: scores.parts for model, scores in block.models.items()}
    assert (parts["original"]["task aggregate"].value, parts["unlearned"]["task aggregate"].value) == (0.0, 1.0)
    # (1 + 1 + 0.4) / 3
    assert parts["unlearned"]["final"].value == pytest.approx(0.8)
    assert "--mmlu" in str(parts["original"]["MMLU"].missing) and parts["original"]["final"].value is UNSET
    assert "secret" not in json.dumps(plain(block))
    assert block.flags == ()


def test_untouched_models_are_flagged() -> None:
    block = official.block(
        "lume", MODELS | {"unlearned": evidence(True)}, Circumstances(holdout=False, ended=True), mmlu={}
    )
    assert block is not None and [flag[:12] for flag in block.flags] == ["the task agg", "nothing done"]
    assert "holdout" in str(block.models["unlearned"].parts["MIA"].missing)


def test_own_rows_have_no_official_score() -> None:
    assert official.block("rows", MODELS, Circumstances(), mmlu={}) is None
    assert registry.load("benchmarks", "rows")().make_row is None


PROBLEM: Any = SimpleNamespace(model="model", tokenizer="tokenizer", runtime=Runtime("cpu"))


def fake_library(monkeypatch: pytest.MonkeyPatch, answer: Any) -> dict[str, Any]:
    """An lm_eval that answers with `answer`, or raises it; returns what it is called with."""
    called: dict[str, Any] = {}

    def simple_evaluate(**named: Any) -> Any:
        called.update(named)
        if isinstance(answer, Exception):
            raise answer
        return answer

    library, models, adapter = (ModuleType(name) for name in ("lm_eval", "models", "huggingface"))
    library.simple_evaluate = simple_evaluate  # type: ignore[attr-defined]
    adapter.HFLM = lambda **named: named  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval", library)
    monkeypatch.setitem(sys.modules, "lm_eval.models", models)
    monkeypatch.setitem(sys.modules, "lm_eval.models.huggingface", adapter)
    return called


@pytest.mark.parametrize(("shots", "examples"), [("zero-shot", 0), ("five-shot", 5)])
def test_value_when_it_answers(shots: Any, examples: int, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = {"results": {"mmlu": {"acc,none": 0.495, "acc_stderr,none": 0.004}, "mmlu_stem": {"acc,none": 0.1}}}
    called = fake_library(monkeypatch, answer)
    found = mmlu.measure(PROBLEM, shots)
    # 0.495 -+ 1.96 * 0.004
    assert found == Score(0.495, pytest.approx(0.48716, abs=1e-5), pytest.approx(0.50284, abs=1e-5), 14042)
    assert called["num_fewshot"] == examples and called["tasks"] == ["mmlu"]
    assert called["model"] == {"pretrained": "model", "tokenizer": "tokenizer", "batch_size": 8}


def test_missing_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    found = mmlu.measure(PROBLEM, "zero-shot")
    assert isinstance(found, Missing) and "not installed" in found.reason and "expunge[mmlu]" in found.reason


def test_missing_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_library(monkeypatch, ConnectionError("the hub cannot be reached\nand more"))
    found = mmlu.measure(PROBLEM, "zero-shot")
    assert found == Missing("lm-eval could not run it (ConnectionError: the hub cannot be reached)")


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        {"results": {}},
        {"results": {"mmlu": {}}},
        {"results": {"mmlu": {"acc,none": "x", "acc_stderr,none": 0}}},
    ]
    + [{"results": {"mmlu": {"acc,none": value, "acc_stderr,none": 0.1}}} for value in (float("nan"), 49.5, -1)],
)
def test_missing_where_the_answer_is_none(answer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_library(monkeypatch, answer)
    assert isinstance(mmlu.measure(PROBLEM, "five-shot"), Missing)


def test_an_accuracy_without_error_has_no_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_library(monkeypatch, {"results": {"mmlu": {"acc,none": 0.25, "acc_stderr,none": "N/A"}}})
    assert mmlu.measure(PROBLEM, "zero-shot") == Score(0.25, None, None, 14042)
