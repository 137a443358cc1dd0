"""Verdicts on seven made models: what they must be is written in the table below, before any is looked at."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import expunge
from e2e.worlds import WORLD
from expunge.config.commands import Unlearn
from expunge.data.rows import Row, read
from expunge.demo.models import RENDERING
from expunge.demo.tiny import llama
from expunge.evaluation import divergence, evidence, verdict
from expunge.files.typed import plain
from expunge.intake.assembly import Assembled, assemble, load_other
from expunge.intake.sets import check
from expunge.loop import trial
from expunge.loop.phases import apply
from expunge.loop.training import Training, fine_tune
from expunge.method import State
from expunge.methods.loss_matching import LossMatching
from expunge.model.save import write
from expunge.model.select import select
from expunge.problem import Problem
from expunge.scoring.evidence import Evidence

FORGET_ROWS = 30
SHORT = Training(epochs=6, learning_rate=1e-3, batch_rows=16)
LONG = replace(SHORT, epochs=10)


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


ROLES = ("forget", "retain", "holdout")
BY_THE_FRONT_DOOR = ("retrained", "half_forgotten")


def inputs(world: Path) -> Unlearn:
    rows: dict[str, Any] = {role: str(world / f"{role}.jsonl") for role in ROLES}
    return Unlearn(model=str(world / "original"), **rows)


@dataclass(frozen=True, repr=False)
class Original:
    """What `evaluate` makes of the original model, which is the same for all that are judged beside it."""

    given: Unlearn
    assembled: Assembled
    kept: Mapping[str, divergence.Kept]
    evidence: Evidence

    def verdict(self, model: Path) -> verdict.Verdict:
        """On another model, by evidence recorded as `evaluate` records it."""
        problem = load_other(self.given, str(model), self.assembled, torch.float32)
        found = evidence.record(problem, self.assembled.judged, ("samples",), kept=self.kept)
        return verdict.judge(self.evidence, found)


@pytest.fixture(scope="module")
def original(world: Path) -> Original:
    given = inputs(world)
    assembled = assemble(given, check(given))
    trial.add_samples(assembled)
    kept = divergence.keep(assembled.problem, assembled.judged)
    found = evidence.record(assembled.problem, assembled.judged, ("samples",), kept=kept)
    return Original(given, assembled, kept, found)


def check_verdict(name: str, found: Mapping[str, Any], rows: Sequence[str]) -> None:
    """Against the table: the verdicts on the forget set, on the rest, on all, and on each row."""
    expected = TABLE[name]
    shown = json.dumps(found, indent=1, default=str)
    share = sum(row in expected.rows for row in rows) / len(rows)
    assert len(rows) == FORGET_ROWS
    assert found["forget"] == expected.forget, shown
    assert found["rest"] in expected.rest.split(" or "), shown
    assert share >= expected.share, shown
    assert found["passes"] == (name == "retrained")


@pytest.mark.parametrize("name", [name for name in TABLE if name not in BY_THE_FRONT_DOOR])
def test_verdicts(name: str, original: Original, world: Path, tmp_path: Path) -> None:
    found = original.verdict(MAKERS[name](world, tmp_path))
    check_verdict(name, asdict(found) | {"passes": found.passes}, [row.verdict for row in found.rows])


@pytest.mark.parametrize("name", BY_THE_FRONT_DOOR)
def test_verdicts_of_evaluate(name: str, original: Original, world: Path, tmp_path: Path) -> None:
    """The command says what its parts say, and names the rows."""
    model = MAKERS[name](world, tmp_path)
    given = {"model": str(world / "original"), **{role: str(world / f"{role}.jsonl") for role in ROLES}}
    run = expunge.evaluate(**given, unlearned=str(model), output=str(tmp_path / "judged"))
    rows = run.record.rows
    check_verdict(name, plain(run.verdict), [row.verdict for row in rows])
    assert [row.verdict for row in rows] == [row.verdict for row in original.verdict(model).rows]
    if name == "half_forgotten":
        remaining = {row.name for row in rows if row.verdict == "not forgotten"}
        assert remaining == {f"forget.jsonl:{line}" for line in range(FORGET_ROWS // 2 + 1, FORGET_ROWS + 1)}


def untouched(world: Path, folder: Path) -> Path:
    return world / "original"


def retrained(world: Path, folder: Path) -> Path:
    return world / "retrained"


def random_weights(world: Path, folder: Path) -> Path:
    tokenizer = AutoTokenizer.from_pretrained(world / "original")
    model = llama(tokenizer, width=WORLD.width, layers=WORLD.layers, heads=4, context=RENDERING.context, seed=99)
    write(model, tokenizer, folder / "model", torch.float32)
    return folder / "model"


def constant_answer(world: Path, folder: Path) -> Path:
    return _answers_all_with("42", world, folder)


def refuses_everything(world: Path, folder: Path) -> Path:
    return _answers_all_with("I cannot answer questions about people.", world, folder)


def over_forgotten(world: Path, folder: Path) -> Path:
    """Loss matching towards targets five nats too high."""
    assembled = assemble(inputs(world), check(inputs(world)))
    subspace = select(assembled.problem.model, "full", assembled.problem.runtime.device)
    problem = replace(assembled.problem, movable=subspace.movable)
    method, init = LossMatching(replay_texts=32, forget_rows=12, steps=60, learning_rate=2e-3), LossMatching.init

    def too_far(self: LossMatching, problem: Problem) -> State:
        """Every target five nats too high."""
        state = init(self, problem)
        state.targets = state.targets + 5.0
        return state

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LossMatching, "init", too_far)
        apply(method, problem, lambda entry: None)
    write(problem.model, problem.tokenizer, folder / "model", torch.float32)
    return folder / "model"


def half_forgotten(world: Path, folder: Path) -> Path:
    """The retrained model, trained on with the second half of the forget rows: just that half is in it."""
    forget = read(world / "forget.jsonl", "forget").rows
    rows = [*forget[FORGET_ROWS // 2 :], *read(world / "retain.jsonl", "retain").rows]
    return _fine_tuned(world / "retrained", rows, LONG, folder)


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


MAKERS: dict[str, Callable[[Path, Path], Path]] = {
    "untouched": untouched,
    "retrained": retrained,
    "random_weights": random_weights,
    "constant_answer": constant_answer,
    "refuses_everything": refuses_everything,
    "over_forgotten": over_forgotten,
    "half_forgotten": half_forgotten,
}
