"""Checkpoints: a tree comes back as it was, a broken file never; and a run killed at any of them ends as if it had not
been, bit for bit, which it does not where any part of what is kept is left out."""

import errno
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from expunge import registry
from expunge.data.batches import Stream
from expunge.errors import ExpungeError, InputError
from expunge.influence import directions
from expunge.influence.refresh import CurvatureRefresh
from expunge.loop import descent, phases
from expunge.loop.phases import KEPT, apply
from expunge.loop.watch import Outcome
from expunge.optim.course import Course
from expunge.runs import checkpoint
from expunge.runs.checkpoint import Checkpoints
from problems import METHODS, problem_for, short


@dataclass(frozen=True)
class Held:
    name: str
    values: Any


TREE = {
    "scalars": [None, True, 3, 0.1, float("inf"), -0.0, "é\ud7ff", ""],
    "tuple": (1, ("a", [])),
    7: {("not", "text"): 1.5},
    "set": frozenset({"b", "a"}),
    "tensors": [torch.arange(6).view(2, 3), torch.tensor(1.5, dtype=torch.bfloat16), torch.zeros(0)],
    "view": torch.arange(12.0).view(3, 4)[:, 1:3].T,
    "array": np.linspace(0, 1, 5)[::2],
    "class": Held("x", [torch.ones(2, dtype=torch.uint8)]),
}


def same(left: Any, right: Any) -> bool:
    """Equal to the last bit and type."""
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right, equal_nan=True)
    if isinstance(left, dict):
        return list(left) == list(right) and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return type(left) is type(right) and len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, Held | Outcome):
        return type(left) is type(right) and all(
            same(getattr(left, f.name), getattr(right, f.name)) for f in fields(left)
        )
    return type(left) is type(right) and (left == right or (left != left and right != right))


def test_a_tree_comes_back(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, (Held,))
    assert kept.load("tree") is None
    kept.save("tree", TREE)
    assert same(kept.load("tree"), TREE)
    assert not same(kept.load("tree"), TREE | {"array": TREE["array"] + 1e-16 + 1e-12})
    kept.clear()
    assert kept.load("tree") is None


def test_one_tensor_that_stands_twice_is_written_once(tmp_path: Path) -> None:
    tensor = torch.ones(1000)
    Checkpoints(tmp_path).save("tree", {"a": tensor, "b": [tensor]})
    assert len(load_file(tmp_path / "tree.safetensors")) == 1
    assert torch.equal(Checkpoints(tmp_path).load("tree")["b"][0], tensor)


def test_a_file_names_no_class_that_the_reader_did_not(tmp_path: Path) -> None:
    Checkpoints(tmp_path, (Held,)).save("tree", Held("x", 1))
    with pytest.raises(InputError, match="--restart"):
        Checkpoints(tmp_path).load("tree")
    (tmp_path / "tree.safetensors").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match="not a checkpoint"):
        Checkpoints(tmp_path).load("tree")


def test_a_full_disk_keeps_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(tmp_path)
    kept.save("tree", 1)

    def full(*given: Any) -> None:
        Path(given[1]).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ExpungeError, match=r"1 MB are missing \(1 MB to write, .* the same command again") as caught:
        kept.save("tree", torch.zeros(9))
    assert caught.value.exit_code == 1
    assert kept.load("tree") == 1


class Killed(BaseException):
    """The process ends here."""


class Mortal(Checkpoints):
    """Ends the process after so many files; counts them."""

    lives = 10**9
    written = 0

    def save(self, name: str, value: Any) -> None:
        super().save(name, value)
        Mortal.written += 1
        if Mortal.written >= Mortal.lives:
            raise Killed


@dataclass(frozen=True)
class Case:
    method: str
    options: tuple[tuple[str, Any], ...] = ()
    tokens: int | None = None

    def method_made(self) -> Any:
        return replace(short(self.method), **dict(self.options))


REMOVAL = (("cycles", 3), ("restore", True), ("step", "fixed"), ("step_size", 1e-4))
BLOCK = (*REMOVAL, ("curvature", "block"), ("curvature_options", {"gradients": 8}))
CASES = [Case(name) for name in METHODS] + [
    Case("fisher_removal", REMOVAL),
    Case("fisher_removal", BLOCK),
    Case("fisher_removal", (*REMOVAL, ("refresh", False))),
    Case("fisher_forgetting", (("reading", "noisy_newton"), ("cycles", 2))),
    Case("npo", tokens=4000),
    Case("loss_matching", tokens=9000),
]
UNDISTURBED: dict[str, "End"] = {}
TYPES = (*KEPT, *directions.carried_types())


@dataclass(frozen=True)
class End:
    weights: dict[str, torch.Tensor]
    outcome: Outcome
    log: list[Any]

    def is_that_of(self, other: "End") -> bool:
        return all(same(getattr(self, part), getattr(other, part)) for part in ("weights", "outcome", "log"))


def whole(case: Case, folder: Path | None, lives: int = 10**9) -> End:
    """One process, from the original on; it may end at a checkpoint. Without a folder nothing is kept."""
    torch.manual_seed(0)
    problem, log = problem_for(case.method, "lora"), []
    Mortal.written, Mortal.lives = 0, lives
    checkpoints = Mortal(folder, TYPES) if folder else None
    outcome = apply(case.method_made(), problem, log.append, case.tokens, checkpoints)
    return End(problem.snapshot(), outcome, log)


def undisturbed(case: Case) -> End:
    """The end of a run that nothing interrupts, made once for the case and for what is left out of it."""
    if str(case) not in UNDISTURBED:
        UNDISTURBED[str(case)] = whole(case, None)
    return UNDISTURBED[str(case)]


def in_lives(case: Case, folder: Path, each: int) -> tuple[End, int]:
    """Process after process, each ending after so many files, until one comes to the end."""
    for process in range(1, 200):
        try:
            return whole(case, folder, each), process
        except Killed:
            continue
    raise AssertionError("it never ends")


@pytest.fixture(autouse=True)
def always_due(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARE", float("inf"))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_killed_at_every_checkpoint_it_ends_the_same(case: Case, tmp_path: Path) -> None:
    ended, processes = in_lives(case, tmp_path, 1)
    assert processes > 1
    assert ended.is_that_of(undisturbed(case))


def nothing(*given: Any) -> None:
    return None


def without_what_is_carried(patch: pytest.MonkeyPatch) -> None:
    """As if `State.carried` were not in the file."""

    def load(self: Mortal, name: str) -> Any:
        kept = Checkpoints.load(self, name)
        return kept and kept | {"carried": {}}

    patch.setattr(Mortal, "load", load)


SLOW = Case("loss_matching", (("steps", 40), ("learning_rate", None)))  # long enough for its course to be steered
REFRESHED = Case("libu", (("steps", 24),))  # long enough for a refresh after a checkpoint
STEPS = "the steps so far"  # which are told, and move nothing
LEFT_OUT: dict[str, tuple[Case, Callable[[pytest.MonkeyPatch], None]]] = {
    "the order of the rows": (Case("loss_matching"), lambda patch: patch.setattr(Stream, "skip", nothing)),
    "the optimiser": (Case("npo"), lambda patch: patch.setattr(descent, "take_up", nothing)),
    "Sophia's refreshes": (REFRESHED, lambda patch: patch.setattr(CurvatureRefresh, "take_up", nothing)),
    "the course": (SLOW, lambda patch: patch.setattr(Course, "take_up", nothing)),
    "what phases carry": (Case("fisher_removal", REMOVAL), without_what_is_carried),
    STEPS: (
        Case("fisher_removal", REMOVAL),
        lambda patch: patch.setattr(phases, "fields", lambda kind: [f for f in fields(kind) if f.name != "steps"]),
    ),
}


@pytest.mark.parametrize("what", LEFT_OUT)
def test_it_would_not_where_something_is_left_out(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case, leave_out = LEFT_OUT[what]
    expected = undisturbed(case)
    leave_out(monkeypatch)
    ended, processes = in_lives(case, tmp_path, 4 if case == SLOW else 1)
    assert processes > 1
    assert not ended.is_that_of(expected)
    assert same(ended.weights, expected.weights) == (what == STEPS)


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
