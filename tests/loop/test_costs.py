"""What phases say they cost, against the tokens that really go through the model in a run, forward and backward."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from expunge.data.passes import MEASURING, Passes
from expunge.loop import descent, phases, training, transforms
from expunge.loop.phases import RUNNERS, Kind, apply, cost
from expunge.loop.training import Training, train
from expunge.loop.unlearning import Ground
from expunge.method import Descend, State, Transform, flattened
from expunge.methods import margin_newton
from expunge.problem import Problem, divided
from problems import METHODS, problem_for, short

# What the rest takes hangs on the model: how long a search is, how many texts repeat, when rows arrive; a second
# descent draws other rows than those that plans draw.
EXACT = {"gradient_ascent", "gradient_difference", "kl_minimisation", "npo", "rmu"}
EXACT |= {"sim_npo", "undial", "alt_po", "idk_dpo"}
OPTIONS = {"ng_diff": {"epochs": 4}}  # a number of steps that its measurements divide
WITHIN = {"task_vector": 0.01, "chunked_difference": 0.02, "ng_diff": 1e-3, "margin_newton": 0.05}
LOOSE = 0.6


@dataclass
class Spent:
    """Tokens, padding excluded, of forward passes with a graph and without one."""

    trained: int = 0
    measured: int = 0

    @property
    def tokens(self) -> float:
        return self.trained + MEASURING * self.measured


@contextmanager
def spending(problem: Problem) -> Iterator[Spent]:
    """Counts at the model; generation, which plans hold apart, is left out."""
    spent = Spent()

    def count(module: Any, arguments: Any, named: dict[str, Any]) -> None:
        if named.get("use_cache"):
            return
        tokens = int(named["attention_mask"].sum())
        if torch.is_grad_enabled():
            spent.trained += tokens
        else:
            spent.measured += tokens

    handle = problem.model.register_forward_pre_hook(count, with_kwargs=True)
    try:
        yield spent
    finally:
        handle.remove()


def spent_by(name: str) -> Spent:
    """With all restorations of margin_newton, which plans count: here so little is lost that there would be none."""
    problem = problem_for(name, "full")
    torch.manual_seed(0)
    with spending(problem) as spent, pytest.MonkeyPatch.context() as patch:
        patch.setattr(margin_newton, "AT_REST", -1.0)
        apply(short(name, **OPTIONS.get(name, {})), problem, lambda entry: None)
    return spent


def planned(name: str) -> float:
    found = cost(short(name, **OPTIONS.get(name, {})), problem_for(name, "full"))
    return (found.before + found.phases).tokens


def check_cost(name: str, plan: Callable[[str], float] = planned) -> None:
    exact = 1.0 / spent_by(name).tokens  # one token
    assert plan(name) == pytest.approx(spent_by(name).tokens, rel=exact if name in EXACT else WITHIN.get(name, LOOSE))


@pytest.mark.parametrize("name", METHODS)
def test_a_method_costs_what_it_says(name: str) -> None:
    check_cost(name)


def _without(kind: type[Any], changed: Callable[[Passes], Passes]) -> dict[type[Any], Kind]:
    """The costs of one kind of phase changed."""
    found = RUNNERS[kind]
    return dict(RUNNERS) | {kind: found._replace(cost=lambda phase, ground: changed(found.cost(phase, ground)))}


BROKEN: dict[str, Callable[[Passes], Passes]] = {
    "no checks": lambda passes: replace(passes, measured=[]),
    "a step too many": lambda passes: replace(passes, trained=[(times * 10 / 9, one) for times, one in passes.trained]),
    "places in place of tokens": lambda passes: replace(
        passes, trained=[(times, one._replace(tokens=one.windows * one.width)) for times, one in passes.trained]
    ),
    "a backward in each check": lambda passes: replace(passes, trained=passes.trained + passes.measured, measured=[]),
}


@pytest.mark.parametrize("what", BROKEN)
def test_other_costs_would_be_seen(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "RUNNERS", _without(Descend, BROKEN[what]))
    with pytest.raises(AssertionError):
        check_cost("gradient_difference")


def test_what_init_takes_is_part_of_it() -> None:
    """The original's distributions, likelihoods or states: a pass over the split that they are kept of."""
    for name, split in (("kl_minimisation", "retain"), ("npo", "forget"), ("rmu", "forget")):
        problem = problem_for(name, "full")
        with pytest.raises(AssertionError):
            check_cost(name, lambda name, left=problem.splits[split].tokens: planned(name) - MEASURING * left)  # type: ignore[misc]


COUNTED = ["gradient_difference", "npo", "kl_minimisation", "ng_diff", "rmu", "task_vector", "alt_po"]


@pytest.mark.parametrize("name", [*COUNTED, "chunked_difference"])
def test_the_outcome_counts_what_steps_really_send(name: str) -> None:
    """A descent without a probe, to the token; looks of a rule for the rate as a third."""
    problem = problem_for(name, "full")
    method = short(name, **OPTIONS.get(name, {}))
    here = divided(problem, method.needs.parts, method.needs.made)
    ground = Ground.of(here, State())
    steps = flattened(method.phases(here, State()))
    torch.manual_seed(0)
    with spending(problem) as spent:
        outcome = apply(method, problem, lambda entry: None)
    work = sum(RUNNERS[type(step)].work(step, ground).tokens for step in steps)
    looks = sum(
        MEASURING * times * shape.tokens
        for step in steps
        if isinstance(step, Descend)
        for times, shape in descent.work(step, ground).measured
    )
    assert outcome.tokens == pytest.approx(spent.trained + looks, abs=1.5)
    assert outcome.tokens == pytest.approx(work, rel=WITHIN.get(name, 0), abs=1.5)
    assert outcome.steps == sum(descent.steps_of(step, 10) for step in steps if isinstance(step, Descend))


def test_a_transform_is_a_check_and_a_copy() -> None:
    problem = problem_for("task_vector", "full")
    ground = Ground.of(problem, State())
    steps = flattened(short("task_vector").phases(problem, State()))
    found, work = (
        sum((one(step, ground) for step in steps if isinstance(step, Transform)), Passes())
        for one in (transforms.cost, transforms.work)
    )
    assert work.tokens == 0 and (work.updates, work.copies) == (3, 1)
    looked = sum(problem.splits[name].tokens for name in ("forget", "retain"))
    assert found.tokens == pytest.approx(MEASURING * 3 * looked)


def test_a_limit_cuts_batches_and_costs_nothing_more() -> None:
    found = cost(short("gradient_difference"), problem_for("gradient_difference", "full")).phases
    cut = found.cut(60)
    assert max(shape.windows * shape.width for _, shape in cut.trained + cut.measured) <= 60
    assert max(shape.windows * shape.width for _, shape in found.trained) > 60
    assert cut.tokens == pytest.approx(found.tokens, rel=0.02)  # shares of tokens are rounded up
    assert cut.row_passes == pytest.approx(found.row_passes)


def test_a_training_costs_what_it_says() -> None:
    """Windows are drawn epoch by epoch; the last step of each takes its share of the next epoch."""
    problem = problem_for("gradient_difference", "full")
    split, settings = problem.splits["retain"], Training(epochs=3, batch_rows=4)
    with spending(problem) as spent:
        train(problem, split, settings, "training")
    found = training.cost(split.windows, settings, problem.seed)
    assert spent.measured == 0 and spent.trained == pytest.approx(found.tokens)
    assert found.updates == 9
    assert spent.trained != pytest.approx(training.cost(split.windows, replace(settings, epochs=2), 0).tokens, rel=0.2)
