"""One sweep over every method, found by discovery: it moves what it may move, is deterministic, and touches no file.

Each check is a function of a method and its problems, and is shown to reject a method that is spoilt in its way.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch

from expunge.data.batches import Batch, collate
from expunge.errors import InputError
from expunge.files import plain_json
from expunge.files.typed import plain, taken
from expunge.loop.phases import apply
from expunge.loop.trial import Trial
from expunge.loop.watch import Outcome
from expunge.method import Descend, Method, Needs, Phase, Propose, Repeat, State, Terms, Transform, flattened
from expunge.model.layers import stack
from expunge.model.losses import target_logits
from expunge.problem import Problem, divided
from expunge.records import applied
from expunge.reference.cache import row_losses
from expunge.reporting import record
from oracles import token_nll
from problems import METHODS, Moved, mixed, problem_for, rows_of, short, text_problem

Make = Callable[[], Problem]
NOTHING = Needs()


def without_gradient(problem: Problem) -> set[str]:
    """Parameters whose gradient of the forget loss is zero by construction: those of a fresh adapter's first factor."""
    split = problem.splits["forget"]
    logits = target_logits(problem.model, batch := collate("forget", split.windows, range(len(split.windows))))
    token_nll(logits, batch).mean().backward()
    found = {name for name, tensor in problem.movable.items() if tensor.grad is None or not tensor.grad.any()}
    problem.model.zero_grad(set_to_none=True)
    return found


@dataclass(frozen=True)
class Changed(Method):
    """A method whose phases are other ones, `change` made of them, as a spoilt entry has them."""

    method: Any
    change: Callable[[Phase], Sequence[Phase]]

    @property
    def needs(self) -> Needs:
        found: Needs = self.method.needs
        return found

    def init(self, problem: Problem) -> State:
        state: State = self.method.init(problem)
        return state

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        return tuple(new for phase in self.method.phases(problem, state) for new in self.change(phase))


def spoilt(apply: Callable[[Problem, State], None]) -> Method:
    """Gradient ascent, and then something that no method should do."""
    return Changed(short("gradient_ascent"), lambda phase: (phase, Transform(apply=apply, name="spoilt")))


def with_loss(loss: Callable[..., Terms]) -> Method:
    return Changed(short("gradient_ascent"), lambda phase: (replace(phase, loss=loss),))  # type: ignore[arg-type]


def check_moves(method: Any, problem: Problem) -> None:
    """All that may move does, where its gradient is not zero by construction, and nothing else."""
    still = without_gradient(problem)
    before = {key: tensor.detach().clone() for key, tensor in problem.model.named_parameters()}
    torch.manual_seed(0)
    outcome = apply(method, problem, lambda entry: None)
    moved = {key for key, tensor in problem.model.named_parameters() if not torch.equal(tensor, before[key])}
    assert moved <= set(problem.movable)
    assert set(problem.movable) - moved <= (still if outcome.proposals else set())
    assert all(torch.isfinite(tensor).all() for tensor in problem.movable.values())
    assert outcome.stopped and outcome.steps > 0
    check_told(outcome)


def check_told(outcome: Outcome) -> None:
    """What a record tells of the run can be read again."""
    done = Trial(outcome, None, None, None)  # type: ignore[arg-type]
    for part in (applied.method("a method", NOTHING, done, None), *record.checks(outcome.history)):
        taken(plain_json.plain(plain(part)), type(part), "a record")


def test_the_check_rejects_entries_of_another_form() -> None:
    check_told(Outcome())
    with pytest.raises(TypeError, match="text"):
        check_told(Outcome(history=[{"text": "a row"}]))
    with pytest.raises(InputError, match=r"at \$\.steps"):
        check_told(Outcome(steps=2.5))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("subspace", ["full", "lora"])
def test_moves_what_may_move_and_nothing_else(name: str, subspace: str) -> None:
    check_moves(short(name), problem_for(name, subspace))


@torch.no_grad()
def _puts_one_back(problem: Problem, state: State) -> None:
    problem.movable["model.layers.1.mlp.up_proj.weight"].copy_(
        mixed().movable["model.layers.1.mlp.up_proj.weight"]  # as every problem of this kind begins
    )


@torch.no_grad()
def _moves_another(problem: Problem, state: State) -> None:
    next(tensor for tensor in problem.model.parameters() if not tensor.requires_grad).add_(1.0)


def test_a_method_that_leaves_one_out_or_moves_another_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        check_moves(spoilt(_puts_one_back), problem_for("gradient_ascent", "full"))
    with pytest.raises(AssertionError):
        check_moves(spoilt(_moves_another), problem_for("gradient_ascent", "lora"))


def check_deterministic(method: Any, make: Make) -> None:
    ends = []
    for _ in range(2):
        problem = make()
        torch.manual_seed(0)
        apply(method, problem, lambda entry: None)
        ends.append(problem.snapshot())
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])


@pytest.mark.parametrize("name", METHODS)
def test_same_seed_same_weights(name: str) -> None:
    check_deterministic(short(name), lambda: problem_for(name, "full"))


@torch.no_grad()
def _adds_chance(problem: Problem, state: State) -> None:
    next(iter(problem.movable.values())).add_(1e-6 * float(np.random.default_rng().normal()))


def test_chance_without_a_seed_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        check_deterministic(spoilt(_adds_chance), lambda: problem_for("gradient_ascent", "full"))


def check_split(method: Any, problem: Problem) -> None:
    """The mean over a batch equals the weighted sum over its parts, away from the original, where many losses are 0."""
    problem = divided(problem, method.needs.parts, method.needs.made)
    state = method.init(problem)
    pool = {**problem.splits, **state.splits}
    losses = [one for one in flattened(method.phases(problem, state)) if isinstance(one, Descend)]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in problem.movable.values():
            tensor.add_(0.01 * torch.randn(tensor.shape, generator=generator))
    for phase, split in [(one, split) for one in losses for split in one.draws if split in pool]:
        windows = pool[split].windows
        count = len(windows)
        whole = phase.loss(problem, state, collate(split, windows, range(count))).total
        parts = [range(0, 3), range(3, count)]
        pieces = [phase.loss(problem, state, collate(split, windows, part)).total * len(part) / count for part in parts]
        assert whole, split
        assert torch.allclose(whole, torch.stack(pieces).sum(), atol=1e-5), split


@pytest.mark.parametrize("name", METHODS)
def test_loss_does_not_depend_on_how_a_batch_is_split(name: str) -> None:
    check_split(short(name), problem_for(name, "full"))


def _sum(problem: Problem, state: State, batch: Batch) -> Terms:
    loss = token_nll(target_logits(problem.model, batch), batch).sum()
    return Terms({"forget": loss}, loss)


def _mean_over_tokens(problem: Problem, state: State, batch: Batch) -> Terms:
    loss = token_nll(target_logits(problem.model, batch), batch).mean()
    return Terms({"forget": loss}, loss)


@pytest.mark.parametrize("loss", [_sum, _mean_over_tokens])
def test_a_loss_that_is_no_mean_over_rows_would_be_seen(loss: Callable[..., Terms]) -> None:
    with pytest.raises(AssertionError):
        check_split(with_loss(loss), problem_for("gradient_ascent", "full"))


def check_original(method: Any, problem: Problem) -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    with problem.original() as original, torch.no_grad():
        before = original(ids).logits.clone()
    apply(method, problem, lambda entry: None)
    with problem.original() as original, torch.no_grad():
        assert torch.equal(original(ids).logits, before)
    with torch.no_grad():
        assert not torch.equal(problem.model(ids).logits, before)


@pytest.mark.parametrize("name", METHODS)
def test_adapter_off_is_the_original(name: str) -> None:
    """Inside a method, the original is the same model with the adapter off: moving the adapter does not move it."""
    check_original(short(name), problem_for(name, "lora"))


def test_a_method_that_moves_the_base_would_be_seen() -> None:
    with pytest.raises(AssertionError):
        check_original(spoilt(_moves_another), problem_for("gradient_ascent", "lora"))


@pytest.mark.parametrize("name", ["gradient_ascent", "gradient_difference"])
def test_forget_loss_climbs(name: str) -> None:
    problem = mixed()
    start = row_losses(problem, problem.model, problem.splits["forget"]).mean()
    apply(replace(short(name), learning_rate=3e-3), problem, lambda entry: None)
    assert row_losses(problem, problem.model, problem.splits["forget"]).mean() > start + 0.1


def check_parts(method: Any, problem: Problem) -> None:
    needs = method.needs
    bare = divided(replace(problem, model=None), needs.parts, needs.made)
    phases = flattened(method.phases(bare, State()))
    assert phases
    if any(isinstance(phase, Propose) for phase in phases):
        assert "acceptance" in needs.parts
    if not needs.retain and not needs.fewest_retain:  # then it makes rows to accept on where none are given
        others = {name: split for name, split in problem.splits.items() if name != "retain"}
        assert not needs.parts or "acceptance" in method.init(replace(problem, splits=others)).splits
        return
    assert needs.fewest_retain >= len(needs.parts)
    assert needs.retain or not needs.parts


@pytest.mark.parametrize("name", METHODS)
def test_methods_that_propose_have_rows_to_accept_on(name: str) -> None:
    """And as many as there are parts, so that none is empty; plans ask for phases with nothing but rows."""
    check_parts(type(short(name))(), problem_for(name, "full"))


@dataclass(frozen=True)
class Needing(Changed):
    """A method that declares other needs."""

    other: Needs = NOTHING

    @property
    def needs(self) -> Needs:
        return self.other


@pytest.mark.parametrize(
    "wrong",
    [
        Needs(retain=True, parts={"retain": 1, "curvature": 2}, fewest_retain=16),
        Needs(retain=True, parts={"retain": 1, "curvature": 2, "acceptance": 1}, fewest_retain=2),
        Needs(retain=False, parts={"retain": 1, "curvature": 2, "acceptance": 1}, fewest_retain=16),
        Needs(parts={"retain": 1, "acceptance": 1}),
    ],
)
def test_needs_that_leave_a_proposal_without_rows_would_be_seen(wrong: Needs) -> None:
    method = Needing(short("fisher_removal" if wrong.fewest_retain else "npo"), lambda phase: (phase,), wrong)
    with pytest.raises(AssertionError):
        check_parts(method, problem_for("fisher_removal", "full"))


def deep(subspace: str, moved: Moved) -> Problem:
    """Five layers, of which a method may move some."""
    rows = {
        name: rows_of(name, [f"{n * 37 + place}" for n in range(20)])
        for place, name in enumerate(("forget", "retain", "unseen"))
    }
    return text_problem(rows, subspace, moved=moved, layers=5, width=16)


def check_layers(method: Any, problem: Problem) -> None:
    """The layers that moved are those that the method declares: all of them, and nothing outside."""
    names = stack(problem.model).names()
    declared = {names[place] for place in method.needs.layers(len(names))}
    before = {key: tensor.detach().clone() for key, tensor in problem.model.named_parameters()}
    apply(method, problem, lambda entry: None)
    moved = {key for key, tensor in problem.model.named_parameters() if not torch.equal(tensor, before[key])}
    assert 0 < len(declared) < len(names)
    assert {next((layer for layer in names if key.startswith(f"{layer}.")), "none") for key in moved} == declared
    assert moved == set(problem.movable)


LAYERED = [name for name in METHODS if short(name).needs.layers]


@pytest.mark.parametrize("subspace", ["full", "lora"])
@pytest.mark.parametrize("name", LAYERED)
def test_methods_that_name_layers_move_those_and_no_others(name: str, subspace: str) -> None:
    check_layers(short(name), deep(subspace, short(name).needs.layers))


def test_more_or_fewer_layers_would_be_seen() -> None:
    assert LAYERED == ["chunked_difference", "rmu"]
    with pytest.raises(AssertionError):
        check_layers(short("rmu", depth=0.6), deep("full", None))
    with pytest.raises(AssertionError):
        check_layers(short("rmu", depth=0.6), deep("full", lambda count: [1]))


def poisoned(phase: Phase) -> tuple[Phase, ...]:
    """From the fifth batch on the loss of a descent is nan."""
    if isinstance(phase, Repeat):
        return (replace(phase, phases=tuple(new for one in phase.phases for new in poisoned(one))),)
    if not isinstance(phase, Descend):
        return (phase,)
    calls, loss = iter(range(1000)), phase.loss

    def poison(*arguments: Any) -> Terms:
        terms = loss(*arguments)
        return replace(terms, total=terms.total * float("nan")) if next(calls) >= 4 else terms

    return (replace(phase, loss=poison),)


def descends(name: str) -> bool:
    needs = short(name).needs
    problem = divided(problem_for(name, "full"), needs.parts, needs.made)
    phases = flattened(short(name).phases(problem, State()))
    return any(isinstance(phase, Descend) for phase in phases)


DESCENDING = [name for name in METHODS if descends(name)]


@pytest.mark.parametrize("name", DESCENDING)
def test_a_loss_that_is_not_finite_ends_at_the_last_good_weights(name: str) -> None:
    """The run ends, says so, and leaves finite weights."""
    problem = problem_for(name, "full")
    outcome = apply(Changed(short(name), poisoned), problem, lambda entry: None)
    assert "not finite" in outcome.stopped
    assert all(torch.isfinite(tensor).all() for tensor in problem.movable.values())


def test_every_method_that_trains_is_poisoned() -> None:
    assert set(METHODS) - set(DESCENDING) == {"fisher_forgetting", "fisher_removal", "margin_newton"}
