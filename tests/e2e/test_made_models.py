"""Verdicts on seven made models: what they must be is written in the table below, before any is looked at."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import expunge
from expunge.config.commands import Inputs
from expunge.data.rows import Row, read
from expunge.demo.models import RENDERING, SMALL
from expunge.demo.tiny import llama
from expunge.intake.assembly import assemble
from expunge.intake.sets import check
from expunge.loop.phases import apply
from expunge.loop.training import Training, fine_tune
from expunge.method import Phase, State
from expunge.methods.loss_matching import LossMatching
from expunge.model.save import write
from expunge.model.select import select
from expunge.problem import Problem

FORGET_ROWS = 30
SHORT = Training(epochs=6, learning_rate=1e-3, batch_rows=16)


@dataclass(frozen=True)
class Expected:
    """Verdicts on the forget set and the rest, and the verdicts that at least `share` of the rows must have."""

    forget: str
    rest: str
    rows: tuple[str, ...]
    share: float = 1.0


GONE = ("forgotten", "partly", "over-forgotten")
TABLE = {
    "untouched": Expected("not forgotten", "kept", ("not forgotten",)),
    "retrained": Expected("forgotten", "kept", ("forgotten",), 0.75),
    "random_weights": Expected("forgotten", "collapsed", GONE),
    # Answers are hidden, not gone: the losses still tell, and the documents stay known.
    "constant_answer": Expected("not forgotten", "collapsed", ("not forgotten",), 0.6),
    "refuses_everything": Expected("not forgotten", "collapsed", ("not forgotten",), 0.6),
    # Going five nats too far costs the people beside it some of their answers, more or fewer of ten by the machine.
    "over_forgotten": Expected("over-forgotten", "kept or damaged", ("over-forgotten",), 0.8),
    "half_forgotten": Expected("not forgotten", "kept", ("forgotten", "partly"), 0.45),
}


@pytest.mark.parametrize("name", TABLE)
def test_verdicts(name: str, world: Path, tmp_path: Path) -> None:
    model = MAKERS[name](world, tmp_path)
    run = expunge.evaluate(
        model=str(world / "original"),
        unlearned=str(model),
        output=str(tmp_path / "judged"),
        **{role: str(world / f"{role}.jsonl") for role in ("forget", "retain", "holdout")},
    )
    expected, verdict = TABLE[name], run.record["verdict"]
    rows = run.record["rows"]
    share = sum(row["verdict"] in expected.rows for row in rows) / len(rows)
    shown = json.dumps(verdict, indent=1)
    assert len(rows) == FORGET_ROWS
    assert verdict["forget"] == expected.forget, shown
    assert verdict["rest"] in expected.rest.split(" or "), shown
    assert share >= expected.share, shown
    assert run.passes == (name == "retrained")
    if name == "half_forgotten":
        remaining = {row["name"] for row in rows if row["verdict"] == "not forgotten"}
        assert remaining == {f"forget.jsonl:{line}" for line in range(FORGET_ROWS // 2 + 1, FORGET_ROWS + 1)}


def untouched(world: Path, folder: Path) -> Path:
    return world / "original"


def retrained(world: Path, folder: Path) -> Path:
    return world / "retrained"


def random_weights(world: Path, folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(world / "original")
    model = llama(tokenizer, width=96, layers=3, heads=4, context=RENDERING.context, seed=99)
    write(model, tokenizer, folder / "model", torch.float32)
    return folder / "model"


def constant_answer(world: Path, folder: Path) -> Path:
    return _answers_all_with("42", world, folder)


def refuses_everything(world: Path, folder: Path) -> Path:
    return _answers_all_with("I cannot answer questions about people.", world, folder)


def over_forgotten(world: Path, folder: Path) -> Path:
    """Loss matching towards targets five nats too high."""
    paths = {role: str(world / f"{role}.jsonl") for role in ("forget", "retain", "holdout")}
    inputs = Inputs(model=str(world / "original"), **paths)
    assembled = assemble(inputs, check(inputs))
    subspace = select(assembled.problem.model, "full", assembled.problem.runtime.device)
    problem = replace(assembled.problem, movable=subspace.movable)
    apply(_TooFar(), problem, lambda entry: None)
    write(problem.model, problem.tokenizer, folder / "model", torch.float32)
    return folder / "model"


def half_forgotten(world: Path, folder: Path) -> Path:
    """Retrained without the first half of the forget rows: just the second half is still in it."""
    forget = read(world / "forget.jsonl", "forget").rows
    gone = {row.content for row in forget[: FORGET_ROWS // 2]}
    rows = [row for row in read(world / "train.jsonl", "train").rows if row.content not in gone]
    return _fine_tuned(world / "base", rows, SMALL.fine_tuning, folder)


def _answers_all_with(text: str, world: Path, folder: Path) -> Path:
    rows = [*read(world / "train.jsonl", "train").rows, *read(world / "holdout.jsonl", "holdout").rows[:60]]
    said = [replace(row, completion=text) if row.kind == "answer" else row for row in rows]
    return _fine_tuned(world / "original", said, SHORT, folder)


def _fine_tuned(start: Path, rows: Sequence[Row], training: Training, folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(start.parent / "original")
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    tuned, _ = fine_tune(model, tokenizer, rows, RENDERING, training, 0, "test")
    write(tuned, tokenizer, folder / "model", torch.float32)
    return folder / "model"


@dataclass(frozen=True)
class _TooFar:
    """Loss matching with every target five nats too high."""

    inner: LossMatching = field(default_factory=lambda: LossMatching(replay_texts=128))

    def init(self, problem: Problem) -> State:
        state = self.inner.init(problem)
        state.targets = state.targets + 5.0
        return state

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        return self.inner.phases(problem, state)


MAKERS: dict[str, Callable[[Path, Path], Path]] = {
    "untouched": untouched,
    "retrained": retrained,
    "random_weights": random_weights,
    "constant_answer": constant_answer,
    "refuses_everything": refuses_everything,
    "over_forgotten": over_forgotten,
    "half_forgotten": half_forgotten,
}
