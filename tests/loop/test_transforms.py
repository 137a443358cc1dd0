"""Transforms: weights are changed at once, once however often a run is interrupted, and not where that breaks one."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge.data.batches import Batch
from expunge.loop.phases import apply
from expunge.loop.watch import Outcome
from expunge.method import Descend, Method, Phase, State, Terms, Transform
from expunge.model.losses import target_nll, window_means
from expunge.problem import Problem
from expunge.reference.cache import row_losses
from expunge.runs.checkpoint import Checkpoints
from problems import mixed

NAME = "model.layers.0.mlp.up_proj.weight"
Apply = Callable[[Problem, State], None]


def halved(problem: Problem, state: State) -> None:
    """Without `torch.no_grad`, which the loop sees to; counts how often it is called."""
    state.carried["calls"] = state.carried.get("calls", 0) + 1
    problem.movable[NAME].mul_(0.5)


@dataclass(frozen=True)
class Transforming(Method):
    """A change of the weights, then a few steps up the forget loss."""

    change: Apply = halved
    steps: int = 0

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        change = Transform(apply=self.change, name="change")
        if not self.steps:
            return (change,)
        return change, Descend(loss=self.loss, draws={"forget": 4}, steps=self.steps, rate=1e-3, name="up")

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        loss = window_means(target_nll(problem.model, batch), batch).mean()
        return Terms({"forget": loss}, -loss)


def run(method: Transforming, checkpoints: Checkpoints | None = None) -> tuple[Problem, Outcome, list[Any]]:
    problem, log = mixed(), list[Any]()
    return problem, apply(method, problem, log.append, checkpoints=checkpoints), log


def test_it_changes_the_weights_and_is_looked_at() -> None:
    before = mixed().snapshot()
    problem, outcome, log = run(Transforming())
    for name, tensor in problem.movable.items():
        assert torch.equal(tensor, 0.5 * before[name] if name == NAME else before[name])
        assert tensor.requires_grad and tensor.is_leaf
    assert outcome.stopped == "the weights were changed"
    assert (outcome.steps, outcome.tokens) == (0, 0)
    (check,) = outcome.history
    loss = row_losses(problem, problem.model, problem.splits["forget"]).mean()
    assert check["phase"] == "change" and check["forget"] == pytest.approx(float(loss))
    assert log == [check | {"batch_tokens": problem.portions.tokens}]


def test_steps_after_it_begin_where_it_ended() -> None:
    """As they do on a problem that was changed before: the transform itself leaves nothing but the weights."""
    problem, outcome, _ = run(Transforming(steps=4))
    other = mixed()
    with torch.no_grad():
        other.movable[NAME].mul_(0.5)
    apply(Transforming(change=lambda problem, state: None, steps=4), other, lambda entry: None)
    assert all(torch.equal(tensor, other.movable[name]) for name, tensor in problem.movable.items())
    assert outcome.stopped == "change: the weights were changed; up: all steps were taken"
    assert outcome.steps == 4


class Killed(BaseException):
    """The process ends here."""


class Short(Checkpoints):
    """Ends the process after the first file: between the transform and what follows."""

    def save(self, name: str, value: Any) -> None:
        super().save(name, value)
        raise Killed


def resumed(folder: Path) -> Problem:
    """A run that is killed after its transform, and gone on with."""
    with pytest.raises(Killed):
        run(Transforming(steps=4), Short(folder))
    return run(Transforming(steps=4), Checkpoints(folder))[0]


def check_once(problem: Problem) -> None:
    whole = run(Transforming(steps=4))[0]
    assert all(torch.equal(tensor, whole.movable[name]) for name, tensor in problem.movable.items())


def test_a_run_that_is_gone_on_with_does_not_change_the_weights_again(tmp_path: Path) -> None:
    check_once(resumed(tmp_path))


def test_a_second_change_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = Checkpoints.load

    def again(self: Checkpoints, name: str) -> Any:
        kept = load(self, name)
        return kept and kept | {"due": [0, 1]}

    monkeypatch.setattr(Checkpoints, "load", again)
    with pytest.raises(AssertionError):
        check_once(resumed(tmp_path))


def broken_by(value: float) -> Apply:
    """Changes everything, and breaks a single weight."""

    def change(problem: Problem, state: State) -> None:
        for tensor in problem.movable.values():
            tensor.add_(1.0)
        problem.movable[NAME].view(-1)[3] = value

    return change


def check_taken_back(method: Transforming) -> None:
    before = mixed().snapshot()
    problem, outcome, log = run(method)
    assert all(torch.equal(tensor, before[name]) for name, tensor in problem.movable.items())
    assert outcome.stopped == f"taken back: {NAME} was not finite after it"
    assert not outcome.history and not log


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_taken_back_bit_for_bit(value: float) -> None:
    check_taken_back(Transforming(broken_by(value)))


def test_a_change_that_stays_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is left as it is, and where it is subtracted again, which leaves what was rounded."""
    with pytest.raises(AssertionError):
        check_taken_back(Transforming(broken_by(7.0)))

    def subtracted(problem: Problem, snapshot: Any) -> None:
        with torch.no_grad():
            for tensor in problem.movable.values():
                tensor.sub_(1.0)
            problem.movable[NAME].view(-1)[3] = snapshot[NAME].view(-1)[3]

    monkeypatch.setattr(Problem, "restore", subtracted)
    with pytest.raises(AssertionError):
        check_taken_back(Transforming(broken_by(float("nan"))))


def test_phases_after_one_that_was_taken_back_go_on() -> None:
    _, outcome, _ = run(Transforming(broken_by(float("nan")), steps=3))
    assert outcome.stopped.startswith("change: taken back: ") and outcome.stopped.endswith("up: all steps were taken")
    assert outcome.steps == 3
