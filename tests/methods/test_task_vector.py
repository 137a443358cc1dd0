"""Task vectors: the subtraction by hand, on full weights and on the products of an adapter, and what must be seen."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.loop.phases import apply
from expunge.method import Descend, State, Transform
from expunge.methods.task_vector import TaskVector
from expunge.model import effective
from expunge.problem import Problem
from expunge.reference.cache import row_losses
from oracles import same
from problems import lora_of, mixed, model_of, problem_of

SPLITS: dict[str, Any] = {"forget": (1, 1, 1), "retain": (1, 1)}


def dense(problem: Problem) -> dict[str, Tensor]:
    read = effective.read(problem.model, problem.movable)
    return {name: parts[0] if len(parts) == 1 else parts[0] @ parts[1] for name, parts in read.items()}


def run_by_hand(problem: Problem, method: TaskVector, moves: Mapping[str, int]) -> dict[str, Any]:
    """All phases with each training replaced by a random move of that seed; effective weights at each place."""
    state = method.init(problem)
    places: dict[str, Any] = {"original": dense(problem)}
    for phase in method.phases(problem, state):
        if isinstance(phase, Descend):
            (split,) = phase.draws
            random = torch.Generator().manual_seed(moves[split])
            with torch.no_grad():
                for tensor in problem.movable.values():
                    tensor += 0.1 * torch.randn(tensor.shape, generator=random).to(tensor)
            places[split] = dense(problem)
        else:
            assert isinstance(phase, Transform)
            phase.apply(problem, state)
            if phase.name.startswith("vector"):
                assert same(dense(problem), places["original"], 1e-12)  # the next training begins there
    assert not state.carried
    return places | {"after": dense(problem), "lost": state.notes["lost"]}


def expected(places: Mapping[str, Any], forget: float, retain: float) -> dict[str, Tensor]:
    begun = places["original"]
    return {
        name: begun[name]
        - forget * (places["forget"][name] - begun[name])
        + retain * (places["retain"][name] - begun[name])
        for name in begun
    }


@pytest.mark.parametrize(("forget", "retain"), [(1.0, 1.0), (0.7, 0.3)])
def test_on_full_weights(forget: float, retain: float) -> None:
    method = TaskVector(forget_scale=forget, retain_scale=retain)
    places = run_by_hand(problem_of(model_of("llama"), SPLITS), method, {"forget": 1, "retain": 2})
    assert places["lost"] == 0
    assert same(places["after"], expected(places, forget, retain), 1e-10)
    for wrong in ((-forget, retain), (forget, -retain), (forget, 0.0), (2 * forget, retain)):
        assert not same(places["after"], expected(places, *wrong), 0.01)


def test_one_vector_alone() -> None:
    places = run_by_hand(problem_of(model_of("llama"), SPLITS), TaskVector(retain_scale=0.0), {"forget": 1})
    assert "retain" not in places
    assert same(places["after"], {n: 2 * places["original"][n] - part for n, part in places["forget"].items()}, 1e-10)


def test_on_an_adapter_it_is_the_arithmetic_of_products() -> None:
    """A fresh LoRA: the forget vector is one product of the adapter's rank, and its negative is exact; with the retain
    vector the sum has twice that rank, and what is written is the nearest product, with the rest said."""
    method = TaskVector(retain_scale=0.0)
    problem = problem_of(lora_of("llama", fresh=True), SPLITS)
    places = run_by_hand(problem, method, {"forget": 1})
    assert places["lost"] == 0
    assert same(places["after"], {name: -part for name, part in places["forget"].items()}, 1e-10)

    problem = problem_of(lora_of("llama"), SPLITS)
    places = run_by_hand(problem, TaskVector(), {"forget": 1, "retain": 2})
    whole = expected(places, 1, 1)
    off = {name: float((places["after"][name] - part).norm() / part.norm()) for name, part in whole.items()}
    assert places["lost"] == pytest.approx(max(off.values()), rel=1e-6)
    for name, part in whole.items():  # no product of rank 2 is nearer
        rest = torch.linalg.svdvals(part)[2:]
        assert off[name] == pytest.approx(float(rest.norm() / part.norm()), abs=1e-9)


def test_factors_added_up_apart_are_far_off() -> None:
    """What a task vector over the parameters of a LoRA would make."""
    problem = problem_of(lora_of("llama"), SPLITS)
    begun, before = dense(problem), problem.snapshot()
    with torch.no_grad():
        for place, tensor in enumerate(problem.movable.values()):
            tensor += 0.3 * torch.randn(tensor.shape, generator=torch.Generator().manual_seed(place)).to(tensor)
    trained = dense(problem)
    problem.restore({name: 2 * before[name] - tensor for name, tensor in problem.snapshot().items()})
    for name, part in dense(problem).items():
        right = 2 * begun[name] - trained[name]
        assert (part - right).norm() > 0.1 * right.norm()


@pytest.mark.parametrize("subspace", ["full", "lora"])
def test_the_forget_loss_rises_and_the_outcome_says_what_was_done(subspace: str) -> None:
    problem = mixed(subspace)
    before = float(row_losses(problem, problem.model, problem.splits["forget"]).mean())
    apply(TaskVector(learning_rate=3e-3, epochs=10, retain_scale=0), problem, lambda entry: None)
    assert float(row_losses(problem, problem.model, problem.splits["forget"]).mean()) > before
    outcome = apply(TaskVector(learning_rate=3e-3, epochs=10), mixed(subspace), lambda entry: None)
    assert outcome.steps == 2 * 10  # ten forget rows, sixteen a step
    assert [part.split(":")[0] for part in outcome.stopped.split("; ")] == [
        "training on forget rows",
        "vector of forget rows",
        "training on retain rows",
        "vector of retain rows",
        "subtraction",
    ]
    assert 0 <= outcome.notes["lost"] < 1


def test_without_retain_rows_there_is_one_training() -> None:
    problem = mixed()
    problem.splits = {"forget": problem.splits["forget"]}
    phases = TaskVector().phases(problem, State())
    assert [phase.name for phase in phases] == ["training on forget rows", "vector of forget rows", "subtraction"]  # type: ignore[union-attr]
