"""A run killed at any of its checkpoints ends as if it had not been, bit for bit, which it does not where any part of
what is kept is left out."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from expunge import registry
from expunge.data.batches import Batch, Stream
from expunge.errors import InputError
from expunge.influence.refresh import SophiaStepper
from expunge.loop.phases import apply
from expunge.method import (
    Descend,
    Method,
    Needs,
    Phase,
    Proposal,
    Propose,
    Repeat,
    State,
    Terms,
    Transform,
    Trial,
)
from expunge.methods import margin_newton
from expunge.model.losses import target_nll, window_means
from expunge.optim.course import Course
from expunge.optim.step_size import Fixed
from expunge.problem import Problem
from expunge.runs import checkpoint
from expunge.runs.checkpoint import Checkpoints
from oracles import identical
from problems import METHODS, problem_for, short


class Killed(BaseException):
    """The process ends here."""


ANYWHERE, BETWEEN, WITHIN = "anywhere", "between phases", "within a descent"


class Mortal(Checkpoints):
    """Ends the process after so many files of a kind; keeps the kinds of all that it wrote."""

    lives = 10**9
    where = ANYWHERE
    written: list[str]

    def save(self, name: str, value: Any) -> None:
        super().save(name, value)
        kind = BETWEEN if value["within"] is None else WITHIN
        Mortal.written.append(kind)
        if sum(Mortal.where in (ANYWHERE, one) for one in Mortal.written) >= Mortal.lives:
            raise Killed


@dataclass(frozen=True)
class Case:
    method: str
    options: tuple[tuple[str, Any], ...] = ()
    tokens: int | None = None
    low_rank: bool = False  # of whole weights, to be delivered as products

    def made(self) -> Any:
        if self.method == "carrying":
            return Carrying(**dict(self.options))
        return replace(short(self.method), **dict(self.options))


@dataclass(frozen=True)
class Carrying(Method):
    """A method whose phases leave one another what a checkpoint can hold: tensors, tuples, mappings in mappings.

    Every rate of its descents hangs on the rates before it, every loss on what a transform measured, its proposals on
    both, and its cycles end by a count.
    """

    cycles: int = 3

    @property
    def needs(self) -> Needs:
        return Needs(parts={"retain": 2, "acceptance": 1})

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        down = Descend(loss=self.loss, draws={"forget": 4, "retain": 4}, steps=5, rate=self.rate, name="down")
        along = Propose(propose=self.propose, step=Fixed(step=1e-3), passes={}, name="along")
        cycle = (Transform(apply=self.measure, name="measured"), down, along)
        return Repeat(cycle, 9, until=lambda state: len(state.carried["cycles"]) == self.cycles), replace(down, steps=3)

    def measure(self, problem: Problem, state: State) -> None:
        """Leaves what it finds: of each parameter's size and a tensor of each, under keys that are no texts."""
        sizes = {name: (float(tensor.abs().mean()), (tensor.ndim, None)) for name, tensor in problem.movable.items()}
        moved = {name: tensor.detach().clone() for name, tensor in problem.movable.items()}
        state.carried.setdefault("cycles", []).append({"sizes": sizes, "moved": {1: {("a", 2): moved}}})
        state.carried.setdefault("rates", (1e-3,))

    def rate(self, trial: Trial) -> float:
        """As a tuple, each rate from the one before."""
        rates = trial.state.carried.get("rates", (1e-3,))
        assert isinstance(rates, tuple)
        trial.state.carried["rates"] = (*rates, 0.9 * rates[-1] + 1e-5 * trial.step)
        return float(trial.state.carried["rates"][-1])

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        loss = window_means(target_nll(problem.model, batch), batch).mean()
        sizes = state.carried["cycles"][-1]["sizes"] if state.carried else {"none": (1.0, (0, None))}
        weight = sum(size for size, (dimensions, nothing) in sizes.values() if nothing is None)
        return Terms({batch.split: loss}, -weight * loss if batch.split == "forget" else loss)

    def propose(self, problem: Problem, state: State) -> Proposal:
        """Back to where the last transform was, as long as the last rate."""
        moved = state.carried["cycles"][-1]["moved"][1][("a", 2)]
        last = state.carried["rates"][-1]
        direction = {name: (moved[name] - part.detach()) / last for name, part in problem.movable.items()}
        return Proposal(direction=direction)


REMOVAL = (("cycles", 3), ("restore", True), ("step", "fixed"), ("step_size", 1e-4))
BLOCK = (*REMOVAL, ("curvature", "block"), ("curvature_options", {"gradients": 8}))
SLOW = Case("loss_matching", (("steps", 40), ("learning_rate", None)))  # long enough for its course to be steered
REFRESHED = Case("libu", (("steps", 24),))  # long enough for a refresh after a checkpoint
REFITTED = Case("margin_newton", (("refit_every", 1), ("held_rows", 3), ("iterations", 3)))
LOW_RANK = Case("margin_newton", (("refit_every", 2), ("iterations", 3)), low_rank=True)
MEASURED = Case("ng_diff", (("epochs", 5), ("refresh_every", 4), ("first_rate", 0.3)))
"""With checkpoints between two measurements, of a step that is long enough for a bend to be seen."""
THREE = Case("margin_newton", (("iterations", 3),))
CASES = [THREE if name == "margin_newton" else Case(name) for name in METHODS] + [
    Case("carrying"),
    Case("fisher_removal", REMOVAL),
    Case("fisher_removal", BLOCK),
    Case("fisher_removal", (*REMOVAL, ("refresh", False))),
    Case("fisher_forgetting", (("reading", "noisy_newton"), ("cycles", 2))),
    Case("npo", tokens=4000),
    Case("loss_matching", tokens=9000),
    SLOW,
    REFRESHED,
    MEASURED,
    REFITTED,
    LOW_RANK,
]
LIVES = {str(SLOW): 4, str(REFRESHED): 3}  # checkpoints that a process sees, of runs with many
UNDISTURBED: dict[str, "End"] = {}


@dataclass(frozen=True)
class End:
    weights: dict[str, torch.Tensor]
    outcome: Mapping[str, Any]
    log: list[Any]

    def is_that_of(self, other: "End") -> bool:
        return all(identical(getattr(self, part), getattr(other, part)) for part in ("weights", "outcome", "log"))


def problem_of(case: Case) -> Problem:
    name = "fisher_removal" if case.method == "carrying" else case.method
    return replace(problem_for(name, "full"), low_rank=0.8) if case.low_rank else problem_for(name, "lora")


def whole(case: Case, folder: Path | None, lives: int = 10**9, where: str = ANYWHERE) -> End:
    """One process, from the original on; it may end at a checkpoint. Without a folder nothing is kept."""
    torch.manual_seed(0)
    problem, log = problem_of(case), list[Any]()
    Mortal.written, Mortal.lives, Mortal.where = [], lives, where
    outcome = apply(case.made(), problem, log.append, case.tokens, Mortal(folder) if folder else None)
    return End(problem.snapshot(), outcome.state_dict(), log)


def undisturbed(case: Case) -> End:
    """The end of a run that nothing interrupts, made once for the case and for what is left out of it."""
    if str(case) not in UNDISTURBED:
        UNDISTURBED[str(case)] = whole(case, None)
    return UNDISTURBED[str(case)]


def in_lives(case: Case, folder: Path, each: int, where: str = ANYWHERE) -> tuple[End, int]:
    """Process after process, each ending after so many files, until one comes to the end."""
    for process in range(1, 200):
        try:
            return whole(case, folder, each, where), process
        except Killed:
            continue
    raise AssertionError("it never ends")


@pytest.fixture(autouse=True)
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


@pytest.fixture(autouse=True)
def never_at_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """These models lose so little that margin_newton would have nothing to restore."""
    monkeypatch.setattr(margin_newton, "AT_REST", -1.0)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_killed_at_every_checkpoint_it_ends_the_same(case: Case, tmp_path: Path) -> None:
    """At some of them, where there are many (`LIVES`)."""
    ended, processes = in_lives(case, tmp_path, LIVES.get(str(case), 1))
    assert processes > 1
    assert ended.is_that_of(undisturbed(case))


@pytest.mark.parametrize(
    ("case", "where"),
    [
        (Case("carrying"), BETWEEN),
        (Case("carrying"), WITHIN),
        (Case("task_vector"), BETWEEN),
        (Case("task_vector"), WITHIN),
        (Case("fisher_removal", REMOVAL), BETWEEN),
        (MEASURED, WITHIN),
    ],
    ids=str,
)
def test_killed_only_there_it_ends_the_same(case: Case, where: str, tmp_path: Path) -> None:
    ended, processes = in_lives(case, tmp_path, 1, where)
    assert processes > 1
    assert ended.is_that_of(undisturbed(case))


def nothing(*given: Any) -> None:
    return None


def without(*path: str, instead: Any) -> Callable[[pytest.MonkeyPatch], None]:
    """As if the file had something else in this place."""

    def patch(monkeypatch: pytest.MonkeyPatch) -> None:
        def load(self: Mortal, name: str) -> Any:
            kept = Checkpoints.load(self, name)
            inner = kept
            for key in path[:-1]:
                inner = inner[key] if inner else None
            if inner:
                inner[path[-1]] = copy.copy(instead)  # a run writes into what it is given
            return kept

        monkeypatch.setattr(Mortal, "load", load)

    return patch


def _without_optimiser(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.optim.AdamW, "load_state_dict", nothing)


STEPS, TOKENS, DRAWN = "the steps so far", "tokens so far", "tokens of the descent"
TOLD = {STEPS, TOKENS, DRAWN}  # which are told, and move nothing
LEFT_OUT: dict[str, tuple[Case, Callable[[pytest.MonkeyPatch], None]]] = {
    "the order of the rows": (Case("loss_matching"), lambda patch: patch.setattr(Stream, "skip", nothing)),
    "the optimiser": (Case("npo"), _without_optimiser),
    "Sophia's refreshes": (REFRESHED, lambda patch: patch.setattr(SophiaStepper, "load_state_dict", nothing)),
    "the course": (SLOW, lambda patch: patch.setattr(Course, "load_state_dict", nothing)),
    DRAWN: (Case("gradient_ascent"), without("within", "minimiser", "drawn", instead=(0.0, 0.0))),
    "which descent it is": (Case("task_vector"), without("descents", instead=0)),
    TOKENS: (Case("fisher_removal", REMOVAL), without("outcome", "tokens", instead=0)),
    "what phases carry": (Case("fisher_removal", REMOVAL), without("carried", instead={})),
    "what a descent carries": (MEASURED, without("carried", instead={})),
    "where pairs and fits were taken": (REFITTED, without("carried", instead={})),
    "the span of a change": (LOW_RANK, without("carried", "span", instead={})),
    "the carried rates": (Case("carrying"), without("carried", "rates", instead=(1e-3,))),
    STEPS: (Case("fisher_removal", REMOVAL), without("outcome", "steps", instead=0)),
}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_it_would_not_where_something_is_left_out(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, leave_out = LEFT_OUT[what]
    expected = undisturbed(case)
    leave_out(monkeypatch)
    ended, processes = in_lives(case, tmp_path, LIVES.get(str(case), 1))
    assert processes > 1
    assert not ended.is_that_of(expected)
    assert identical(ended.weights, expected.weights) == (what in TOLD)


@pytest.mark.parametrize("where", [BETWEEN, WITHIN])
def test_what_is_carried_matters_in_both_places(where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between phases the fit and the count of cycles; within a descent the rate that was measured."""
    case = MEASURED if where == WITHIN else Case("fisher_removal", REMOVAL)
    expected = undisturbed(case)
    without("carried", instead={})(monkeypatch)
    ended, processes = in_lives(case, tmp_path, 1, where)
    assert processes > 1
    assert not identical(ended.weights, expected.weights)


def test_other_targets_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case("loss_matching")
    with pytest.raises(Killed):
        whole(case, tmp_path, 1)
    kind = registry.load("methods", "loss_matching")
    init = kind.init

    def shifted(self: Any, problem: Any) -> Any:
        state = init(self, problem)
        state.targets = state.targets + 1e-6
        return state

    monkeypatch.setattr(kind, "init", shifted)
    with pytest.raises(InputError, match="computes otherwise"):
        whole(case, tmp_path)
