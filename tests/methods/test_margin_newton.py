"""Margin Newton on tiny models: rows at their targets and the rest held; and parts without which it fails."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from expunge.errors import InputError
from expunge.influence import durable, margin_pairs
from expunge.loop.phases import apply, cost
from expunge.method import Propose, State, flattened
from expunge.methods import margin_newton
from expunge.methods.margin_newton import MarginNewton
from expunge.reference.cache import row_losses
from methods.memorised import FAST, losses, trained, weights

assert weights  # a fixture that stands elsewhere


def test_rows_end_at_their_targets_and_the_rest_stays(weights: dict[str, torch.Tensor]) -> None:
    problem = trained(weights)
    assert float(losses(problem, "forget").mean()) < 0.1
    outcome = apply(FAST, problem, lambda entry: None)
    aims = torch.tensor(outcome.targets)
    assert float(aims.min()) > 1
    assert ((losses(problem, "forget") - aims).abs() / aims).median() < 0.15
    assert float(losses(problem, "retain").mean()) < 0.25 * float(aims.mean())
    plain = trained(weights)
    apply(replace(FAST, curvature="identity"), plain, lambda entry: None)
    assert float(losses(plain, "retain").mean()) > 1.2 * float(losses(problem, "retain").mean())


def test_what_is_planned_is_about_what_comes(weights: dict[str, torch.Tensor]) -> None:
    outcome = apply(replace(FAST, repairs=0), trained(weights), lambda entry: None)
    steps = [one for one in outcome.proposals if one["phase"] == "removal"]
    assert [one["notes"]["share"] for one in steps] == [0.5, 0.5, 0.5, 1.0]
    for one in steps:
        way = one["notes"]["planned"] - one["forget"]["before"]
        assert 0.5 < (one["forget"]["after"] - one["forget"]["before"]) / way < 1.5
    assert all(one["forget"]["after"] is not None and one["retain_kl"]["after"] is not None for one in steps)


def test_a_restoration_lowers_the_retain_kl_and_leaves_the_forget_rows(weights: dict[str, torch.Tensor]) -> None:
    outcome = apply(FAST, trained(weights), lambda entry: None)
    back = [one for one in outcome.proposals if one["phase"] == "restoration" and one["step"]]
    assert back
    for one in back:
        assert one["retain_kl"]["after"] < one["retain_kl"]["before"]
        assert abs(one["forget"]["after"] - one["forget"]["before"]) < 0.25


def test_a_budget_is_kept_and_rows_stop_short(weights: dict[str, torch.Tensor]) -> None:
    """The dial of `--method auto`: every step towards the targets ends within it, and no budget ends beyond."""
    free = apply(replace(FAST, repairs=0), trained(weights), lambda entry: None)
    most = max(one["retain_kl"]["after"] for one in free.proposals if one["phase"] == "removal")
    outcome = apply(replace(FAST, budget=most / 10), trained(weights), lambda entry: None)
    steps = [one for one in outcome.proposals if one["phase"] == "removal" and one["step"]]
    assert steps and all(one["retain_kl"]["after"] <= most / 10 for one in steps)
    gone = [one for one in free.proposals if one["phase"] == "removal"]
    assert max(one["forget"]["after"] for one in steps) < gone[-1]["forget"]["after"]


def test_only_linear_weights_move(weights: dict[str, torch.Tensor]) -> None:
    problem = trained(weights)
    before = {name: tensor.detach().clone() for name, tensor in problem.model.named_parameters()}
    apply(FAST, problem, lambda entry: None)
    moved = {name for name, tensor in problem.model.named_parameters() if not torch.equal(tensor, before[name])}
    assert moved == set(problem.movable)
    assert all("proj" in name for name in moved)


def test_a_row_that_is_known_no_better_than_its_target_is_not_learnt(weights: dict[str, torch.Tensor]) -> None:
    """Unseen rows that are asked to be forgotten are not led down to a target, beside those that go."""
    problem = trained(weights)
    unseen = problem.splits["unseen"]
    stranger = unseen.of([0, 1], "forget")
    forget = problem.splits["forget"]
    problem.splits = {**problem.splits, "forget": forget.joined(stranger)}
    before = losses(problem, "forget")[len(forget) :]
    apply(FAST, problem, lambda entry: None)
    after = losses(problem, "forget")[len(forget) :]
    assert (after > 0.85 * before).all()


def test_without_retain_rows_the_model_s_own_text_is_kept(weights: dict[str, torch.Tensor]) -> None:
    problem = trained(weights)
    problem.splits = {name: split for name, split in problem.splits.items() if name != "retain"}
    outcome = apply(FAST, problem, lambda entry: None)
    aims = torch.tensor(outcome.targets)
    assert ((losses(problem, "forget") - aims).abs() / aims).median() < 0.25
    assert outcome.steps >= 4


def test_held_rows_stand_in_the_system(weights: dict[str, torch.Tensor]) -> None:
    problem = trained(weights)
    outcome = apply(replace(FAST, held_rows=8, restorations=0), problem, lambda entry: None)
    alone = trained(weights)
    apply(replace(FAST, restorations=0), alone, lambda entry: None)
    assert outcome.notes["rows"]["held"] == 8
    assert float(losses(problem, "retain").mean()) < float(losses(alone, "retain").mean())


def test_a_curvature_without_factors_is_refused() -> None:
    with pytest.raises(InputError, match=r"two factors.*Use kfac"):
        MarginNewton(curvature="diagonal")


def test_a_request_that_is_done_ends(weights: dict[str, torch.Tensor]) -> None:
    problem = trained(weights)
    apply(replace(FAST, iterations=6), problem, lambda entry: None)
    again = apply(FAST, problem, lambda entry: None)
    assert "every forget row is at its target" in again.stopped or again.steps <= 7


def test_the_rest_is_repaired_where_it_has_moved(
    weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds go on until the KL is below the bar, and none is made where it was; rows end at their targets."""
    plain, repaired = trained(weights), trained(weights)
    before = apply(replace(FAST, repairs=0), plain, lambda entry: None)
    begun = len(before.proposals)
    last = before.proposals[-1]["retain_kl"]
    reached = last["after"] or last["before"]
    assert reached > 2 * margin_newton.AS_IT_WAS
    outcome = apply(FAST, repaired, lambda entry: None)
    assert [one["step"] for one in outcome.proposals[:begun]] == [one["step"] for one in before.proposals]
    rounds = [one["phase"] for one in outcome.proposals[begun:]]
    assert rounds == ["restoration", "restoration", "removal", "restoration", "restoration"] * 6
    ends = [one["retain_kl"]["after"] for one in outcome.proposals if one["step"]]
    assert ends[-1] < 0.85 * reached
    assert float(losses(repaired, "retain").mean()) < 0.85 * float(losses(plain, "retain").mean())
    aims = torch.tensor(outcome.targets)
    assert ((losses(repaired, "forget") - aims).abs() / aims).median() < 0.15
    monkeypatch.setattr(margin_newton, "AS_IT_WAS", reached)
    none = apply(FAST, trained(weights), lambda entry: None)
    assert [one["step"] for one in none.proposals] == [one["step"] for one in before.proposals] + [None]
    assert "nothing to repair" in none.stopped
    monkeypatch.setattr(margin_newton, "AS_IT_WAS", 0.8 * reached)
    some = apply(FAST, trained(weights), lambda entry: None)
    assert begun + 1 < len(some.proposals) < len(outcome.proposals) and "nothing to repair" in some.stopped


@pytest.mark.parametrize("rounds", [0, 2])
def test_the_plan_counts_what_a_run_takes(rounds: int, weights: dict[str, torch.Tensor]) -> None:
    problem, method = trained(weights), replace(FAST, durable_rounds=rounds, repairs=0)
    planned = cost(method, replace(problem, model=None))
    outcome = apply(method, problem, lambda entry: None)
    found = planned.before.row_passes + planned.phases.row_passes
    assert 0.6 < outcome.row_passes / found < 1.5
    assert planned.spare == 0
    repaired = apply(replace(method, repairs=2), trained(weights), lambda entry: None)
    more = cost(replace(method, repairs=2), replace(problem, model=None))
    assert more.before.row_passes + more.phases.row_passes == found
    assert 0.4 < (repaired.row_passes - outcome.row_passes) / more.spare < 1.5
    steps = flattened(method.phases(problem, State()))
    # restorations stand between the steps, one after the last; a durable round is one, with an iteration after it
    assert sum(isinstance(step, Propose) for step in steps) == 4 + 2 * 3 + 1 + rounds * 4


def test_durable_rounds_leave_less_to_bring_back(
    weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the rows relearned, dealt as no round did: how far the losses of the others fall, where all of their need
    was asked for in rounds and where nothing was. (A run without rounds has fewer restorations too.)"""
    fell: dict[float, float] = {}
    for share in (0.0, 1.0):
        monkeypatch.setattr(durable, "SHARE", share)
        problem = trained(weights)
        outcome = apply(replace(FAST, durable_rounds=2), problem, lambda entry: None)
        aims, forget = torch.tensor(outcome.targets), problem.splits["forget"]
        assert ((losses(problem, "forget") - aims).abs() / aims).median() < 0.2
        assert sum(one["phase"] == "durable round" and one["step"] == 1 for one in outcome.proposals) == 2
        fell[share] = 0.0
        for exchange in durable.exchanges(forget.rows, 77):
            half, others = forget.of(exchange.relearned, "half"), forget.of(exchange.others, "others")
            before = row_losses(problem, problem.model, others)
            with durable.relearned(problem, half, durable.Relearning(steps=10), 1):
                fell[share] += float((before - row_losses(problem, problem.model, others)).mean())
    assert fell[0.0] > 1.0
    assert fell[1.0] < 0.8 * fell[0.0]


def test_a_single_row_has_no_durable_rounds(weights: dict[str, torch.Tensor]) -> None:
    problem = trained(weights)
    problem.splits = {**problem.splits, "forget": problem.splits["forget"].of([0], "forget")}
    phases = flattened(replace(FAST, durable_rounds=3).phases(problem, State()))
    assert "durable round" not in {one.name for one in phases} and phases[-1].name == "restoration"


@pytest.mark.parametrize("broken", ["losses", "sign", "no projection"])
def test_broken_variants_do_worse(
    broken: str, weights: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gradients of losses in place of margins, needs in the wrong sign, restorations that are not projected."""
    whole = apply(FAST, trained(weights), lambda entry: None)
    if broken == "losses":

        def loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
            p = logits.softmax(dim=1)
            return -p.scatter_add(1, ids[:, None], -torch.ones_like(p[:, :1]))

        monkeypatch.setattr(margin_pairs, "margin_cotangent", loss)
    if broken == "sign":
        right = margin_newton.needs
        monkeypatch.setattr(margin_newton, "needs", lambda tokens, aims: -right(tokens, aims))
    if broken == "no projection":
        still = lambda pairs, white: torch.zeros(pairs.count).double()  # noqa: E731
        monkeypatch.setattr(margin_newton.dual.RowPairs, "along", still)
    spoilt = trained(weights)
    outcome = apply(FAST, spoilt, lambda entry: None)

    def missed(one: Any) -> float:
        """How far steps went from what was planned, and restorations from leaving the forget rows alone."""
        steps = [e for e in one.proposals if e["phase"] == "removal" and e["step"]]
        plans = [e["notes"]["planned"] - e["forget"]["after"] for e in steps]
        plans += [1.0] * (4 - len(steps))
        moved = [
            e["forget"]["after"] - e["forget"]["before"]
            for e in one.proposals
            if e["phase"] == "restoration" and e["step"]
        ]
        return sum(map(abs, plans)) if broken != "no projection" else sum(map(abs, moved))

    assert missed(outcome) > 1.5 * missed(whole)
