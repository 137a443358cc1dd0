"""One sweep over every method, found by discovery: it moves what it may move, is deterministic, and touches no file."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from expunge import registry
from expunge.data.batches import collate
from expunge.loop.phases import apply
from expunge.method import LossPhase, ProposalPhase, State, flattened
from expunge.model.losses import target_logits
from expunge.problem import Problem, divided
from expunge.reference.cache import row_losses
from oracles import token_nll
from problems import METHODS, mixed, problem_for, short


def without_gradient(problem: Problem) -> set[str]:
    """Parameters whose gradient of the forget loss is zero by construction: those of a fresh adapter's first factor."""
    split = problem.splits["forget"]
    logits = target_logits(problem.model, batch := collate("forget", split.windows, range(len(split.windows))))
    token_nll(logits, batch).mean().backward()
    found = {name for name, tensor in problem.movable.items() if tensor.grad is None or not tensor.grad.any()}
    problem.model.zero_grad(set_to_none=True)
    return found


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("subspace", ["full", "lora"])
def test_moves_what_may_move_and_nothing_else(name: str, subspace: str) -> None:
    problem = problem_for(name, subspace)
    still = without_gradient(problem)
    before = {key: tensor.detach().clone() for key, tensor in problem.model.named_parameters()}
    torch.manual_seed(0)
    outcome = apply(short(name), problem, lambda entry: None)
    moved = {key for key, tensor in problem.model.named_parameters() if not torch.equal(tensor, before[key])}
    assert moved <= set(problem.movable)
    assert set(problem.movable) - moved <= (still if outcome.proposals else set())
    assert all(torch.isfinite(tensor).all() for tensor in problem.movable.values())
    assert outcome.stopped and outcome.steps > 0


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_weights(name: str) -> None:
    ends = []
    for _ in range(2):
        problem = problem_for(name, "full")
        torch.manual_seed(0)
        apply(short(name), problem, lambda entry: None)
        ends.append(problem.snapshot())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.parametrize("name", METHODS)
def test_loss_does_not_depend_on_how_a_batch_is_split(name: str) -> None:
    """The mean over a batch equals the weighted sum over its parts; a sum in place of the mean would not."""
    method = short(name)
    problem = divided(problem_for(name, "full"), getattr(method, "retain_parts", {}))
    state = method.init(problem)
    pool = {**problem.splits, **state.splits}
    losses = [one for one in flattened(method.phases(problem, state)) if isinstance(one, LossPhase)]
    for phase, split in [(one, split) for one in losses for split in one.draws if split in pool]:
        windows = pool[split].windows
        count = len(windows)
        whole = phase.loss(problem, state, collate(split, windows, range(count))).total
        parts = [range(0, 3), range(3, count)]
        pieces = [phase.loss(problem, state, collate(split, windows, part)).total * len(part) / count for part in parts]
        assert torch.allclose(whole, torch.stack(pieces).sum(), atol=1e-5), split


@pytest.mark.parametrize("name", METHODS)
def test_adapter_off_is_the_original(name: str) -> None:
    """Inside a method, the original is the same model with the adapter off: moving the adapter does not move it."""
    problem = problem_for(name, "lora")
    ids = torch.tensor([[5, 6, 7, 8]])
    with problem.original() as original, torch.no_grad():
        before = original(ids).logits.clone()
    apply(short(name), problem, lambda entry: None)
    with problem.original() as original, torch.no_grad():
        assert torch.equal(original(ids).logits, before)
    with torch.no_grad():
        assert not torch.equal(problem.model(ids).logits, before)


@pytest.mark.parametrize("name", ["gradient_ascent", "gradient_difference"])
def test_forget_loss_climbs(name: str) -> None:
    problem = mixed()
    start = row_losses(problem, problem.model, problem.splits["forget"]).mean()
    apply(replace(short(name), learning_rate=3e-3), problem, lambda entry: None)
    assert row_losses(problem, problem.model, problem.splits["forget"]).mean() > start + 0.1


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_propose_have_rows_to_accept_on(name: str) -> None:
    """And as many as there are parts, so that none is empty; plans ask for phases with nothing but rows."""
    kind = registry.load("methods", name)
    parts = getattr(kind, "retain_parts", {})
    problem = replace(divided(problem_for(name, "full"), parts), model=None)
    phases = flattened(kind().phases(problem, State()))
    assert phases
    if any(isinstance(phase, ProposalPhase) for phase in phases):
        assert "acceptance" in parts
    assert getattr(kind, "fewest_retain", 0) >= len(parts)


@pytest.mark.parametrize("name", [name for name in METHODS if hasattr(registry.load("methods", name), "loss")])
def test_a_loss_that_is_not_finite_ends_at_the_last_good_weights(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the fifth batch on the loss is nan: the run ends, says so, and leaves finite weights."""
    problem = problem_for(name, "full")
    kind = registry.load("methods", name)
    calls, loss = iter(range(1000)), kind.loss

    def poisoned(*arguments: Any) -> Any:
        terms = loss(*arguments)
        return replace(terms, total=terms.total * float("nan")) if next(calls) >= 4 else terms

    monkeypatch.setattr(kind, "loss", poisoned)
    outcome = apply(short(name), problem, lambda entry: None)
    assert "not finite" in outcome.stopped
    assert all(torch.isfinite(tensor).all() for tensor in problem.movable.values())
