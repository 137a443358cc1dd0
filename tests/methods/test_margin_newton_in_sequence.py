"""A second request: held to the first model, with the rows that were removed before in the system."""

from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from typing import Any

import pytest
import torch

from expunge.influence import system
from expunge.influence.amounts import amounts
from expunge.loop.phases import apply, cost
from expunge.methods.margin_newton import MarginNewton
from expunge.problem import Problem
from expunge.reference import objective
from expunge.reference.cache import keep_distributions, window_divergences
from methods.memorised import FAST, losses, trained, weights

assert weights  # a fixture that stands elsewhere


class Second:
    """The model that a first request for half of the rows left, as the problem of a second one for the others; the
    original is spoilt a little more, as a longer line of requests would."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.first = trained(weights)
        forget = self.first.splits["forget"]
        halves = {"earlier": [0, 1, 4], "forget": [2, 3, 5]}
        self.splits = {**self.first.splits, **{name: forget.of(places, name) for name, places in halves.items()}}
        before = trained(weights)
        before.splits = {**before.splits, "forget": self.splits["earlier"]}
        apply(replace(FAST, restorations=0), before, lambda entry: None)
        self.left = before.snapshot()

    def problem(self, held: bool, with_rows: bool = True) -> Problem:
        made = deepcopy(self.first)
        made.restore(self.left)
        splits = {name: split for name, split in self.splits.items() if name != "earlier" or (held and with_rows)}
        return replace(made, splits=splits, first=(lambda: nullcontext(self.first.model)) if held else None)

    def apart(self, problem: Problem, name: str) -> float:
        """KL of the first model's distributions and the problem's, of rows that neither saw or of rows to keep."""
        split = problem.splits[name]
        return window_divergences(problem, split, keep_distributions(self.first, split)).kl_per_token

    def earlier(self, problem: Problem) -> torch.Tensor:
        return losses(replace(problem, splits=self.splits), "earlier")


@pytest.fixture(scope="module")
def second(weights: dict[str, torch.Tensor]) -> Second:
    return Second(weights)


def ran(problem: Problem, method: MarginNewton = FAST) -> Any:
    return apply(method, problem, lambda entry: None)


def test_it_leads_back_to_what_the_first_model_knew(second: Second) -> None:
    held, given = second.problem(held=True), second.problem(held=False)
    begun = second.apart(given, "retain")
    outcome = ran(held)
    ran(given)
    assert second.apart(held, "retain") < 0.8 * begun and second.apart(held, "retain") < second.apart(given, "retain")
    assert outcome.proposals[0]["retain_kl"]["before"] > 0.01  # of the first model, not of the given one
    aims = torch.tensor(outcome.targets)
    assert ((losses(held, "forget") - aims).abs() / aims).median() < 0.15


def test_what_was_removed_before_stays_removed(second: Second) -> None:
    before = second.earlier(second.problem(held=True))
    held, alone = second.problem(held=True), second.problem(held=True, with_rows=False)
    outcome = ran(held)
    ran(alone)
    assert outcome.notes["rows"]["earlier"] == 3
    assert float((second.earlier(held) / before - 1).abs().mean()) < 0.1
    assert float(second.earlier(alone).mean()) < float(second.earlier(held).mean())  # they come back without


def test_a_budget_that_is_spent_when_it_begins_lets_steps_end_no_further(second: Second) -> None:
    outcome = ran(second.problem(held=True), replace(FAST, budget=1e-4))
    steps = [one for one in outcome.proposals if one["phase"] == "removal" and one["step"]]
    assert all(one["retain_kl"]["after"] <= max(1e-4, one["retain_kl"]["before"]) for one in steps)


def test_what_it_costs_is_planned(second: Second) -> None:
    once = replace(FAST, repairs=0)

    def planned(problem: Problem) -> Any:
        found = cost(once, problem)
        return found.before + found.phases

    made = second.problem(held=True)
    found, without = planned(made), planned(second.problem(held=False))
    assert found.row_passes > without.row_passes
    assert ran(made, once).row_passes <= 1.05 * found.row_passes
    repaired = ran(second.problem(held=True))
    assert repaired.row_passes <= 1.05 * (found.row_passes + cost(FAST, made).spare)


def test_how_many_rows_follow_from_the_request() -> None:
    assert [amounts(one, 1000, 500).earlier for one in (1, 4, 10, 200)] == [8, 8, 20, 200]
    assert amounts(10, 1000, 5).earlier == 5 and amounts(10, 1000).earlier == 0
    assert amounts(10, 1000, 5).keep == 20 and amounts(10, 1000).keep == 12


def test_the_rows_that_came_back_farthest_stand_in_the_system(second: Second) -> None:
    problem = second.problem(held=True)
    before = second.earlier(problem)
    amounts_now = replace(amounts(3, 10, 3), earlier=2, held=0)
    found = system.at_original(problem, problem.splits["retain"], amounts_now, torch.full((3,), 4.0))
    assert found.forget == 3 and len(found.rows.rows) == 5
    aims, now = found.aims[3:], found.tokens.losses()[3:]
    assert bool((aims >= now).all())  # beyond its target it stays: nothing is taught again
    told = replace(problem, splits={**problem.splits, "forget": problem.splits["earlier"]}, base=before.numpy())
    gaps = torch.from_numpy(objective.find_targets(told).values) - before
    assert [row for row in range(3) if row != int(gaps.argmin())] == [
        problem.splits["earlier"].rows.index(row) for row in found.rows.rows[3:]
    ]
    unsaid = replace(problem, splits={name: one for name, one in problem.splits.items() if name != "unseen"})
    found = system.at_original(unsaid, problem.splits["retain"], amounts_now, torch.full((3,), 4.0))
    assert torch.allclose(found.aims[3:], found.tokens.losses()[3:])  # without targets each stays where it is
    best_known = [problem.splits["earlier"].rows.index(row) for row in found.rows.rows[3:]]
    assert best_known == sorted(before.argsort()[:2].tolist())


def test_without_any_it_asks_for_neither() -> None:
    assert MarginNewton().needs.earlier and not MarginNewton(earlier_rows=0).needs.earlier
