"""Proposal phases, by a method made here: what is measured, what a budget holds, what a refusal leaves behind."""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.data.batches import Batch, collate
from expunge.data.passes import Weighed
from expunge.errors import InputError
from expunge.loop import descent, proposals
from expunge.loop.phases import apply, cost, steps_within
from expunge.loop.unlearning import Ground
from expunge.loop.watch import Outcome
from expunge.method import Descend, Method, Needs, Phase, Probe, Proposal, Propose, Repeat, State, Terms, flattened
from expunge.model.losses import target_logits, window_means
from expunge.optim.course import SETTLE
from expunge.optim.search import Measured
from expunge.optim.step_size import USUAL, Fixed, LineSearch, RetainBudget, StepRule, ToTargets
from expunge.problem import Problem, divided
from expunge.reference.cache import row_losses
from oracles import token_nll
from problems import mixed

Shape = Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]]
PARTS = {"retain": 2, "curvature": 1, "acceptance": 1}
BUDGET = 0.01


def mean_loss(problem: Problem, split: str, by_rows: bool) -> Tensor:
    """All windows in one batch; no row of these problems has two windows."""
    windows = problem.splits[split].windows
    batch = collate(split, windows, range(len(windows)))
    nll = token_nll(target_logits(problem.model, batch), batch)
    return window_means(nll, batch).mean() if by_rows else nll.mean()


def gradient(problem: Problem, split: str, by_rows: bool) -> dict[str, Tensor]:
    found = torch.autograd.grad(mean_loss(problem, split, by_rows), list(problem.movable.values()))
    return dict(zip(problem.movable, found, strict=True))


def along(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return sum(float((one[name].double() * other[name].double()).sum()) for name in other)


@dataclass(frozen=True)
class Uphill(Method):
    """Up the forget loss by proposals, `times` of them, then as many descents as there are `descents`."""

    step: StepRule = field(default_factory=lambda: RetainBudget(budget=BUDGET))
    times: int = 1
    shape: Shape = dict
    target: float | None = None
    descents: tuple[int, ...] = ()

    @property
    def needs(self) -> Needs:
        return Needs(parts=PARTS, fewest_retain=3)

    def init(self, problem: Problem) -> State:
        count = len(problem.splits["forget"].rows)
        return State(targets=None if self.target is None else torch.full((count,), self.target))

    def propose(self, problem: Problem, state: State) -> Proposal:
        up = gradient(problem, "forget", by_rows=True)
        direction = self.shape(up)
        slopes = [along(found, direction) for found in (up, gradient(problem, "acceptance", by_rows=False))]
        return Proposal(direction=direction, forget_slope=slopes[0], retain_slope=slopes[1], notes={"made": 1})

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        up = Propose(propose=self.propose, step=self.step, passes={"forget": 1, "acceptance": 1}, name="uphill")
        cycles: Phase = up if self.times == 1 else Repeat((up,), self.times)
        downs = [
            Descend(loss=self.loss, draws={"retain": 2}, steps=steps, rate=1e-4, name="back") for steps in self.descents
        ]
        return (cycles, *downs)

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        loss = window_means(token_nll(target_logits(problem.model, batch), batch), batch).mean()
        return Terms({"retain": loss}, loss)


def run(method: Uphill, subspace: str = "full", tokens: int | None = None) -> tuple[Problem, Outcome]:
    problem = mixed(subspace)
    torch.manual_seed(0)
    return problem, apply(method, problem, lambda entry: None, tokens)


def acceptance_kl(original: Any, problem: Problem) -> float:
    """KL(original, current) per counted token, from two models and the whole vocabulary."""
    windows = divided(problem, PARTS).splits["acceptance"].windows
    batch = collate("acceptance", windows, range(len(windows)))
    with torch.no_grad():
        then, now = (target_logits(model, batch).double().log_softmax(1) for model in (original, problem.model))
    return float((then.exp() * (then - now)).sum(1).mean())


def test_the_forecast_of_a_small_step_is_what_is_measured() -> None:
    problem, outcome = run(Uphill(step=Fixed(step=1e-2)))
    (entry,) = outcome.proposals
    predicted, measured = entry["predicted"], entry["measured"]
    assert measured["forget"] == pytest.approx(predicted["forget"], rel=0.05) and measured["forget"] > 0
    assert predicted["retain"] is None  # without a bend
    forget = problem.splits["forget"]
    assert entry["forget"]["after"] == pytest.approx(float(row_losses(problem, problem.model, forget).mean()))
    assert entry["notes"] == {"made": 1} and entry["rule"] == {"name": "Fixed", "step": 1e-2}
    _, turned = run(Uphill(step=Fixed(step=1e-2), shape=lambda up: {name: -part for name, part in up.items()}))
    assert turned.proposals[0]["measured"]["forget"] < 0


def test_the_update_is_plus_step_times_direction_and_what_is_not_named_stays() -> None:
    start = mixed()
    some = [name for name in start.movable if "layers.0" in name]
    direction = {name: part for name, part in gradient(start, "forget", by_rows=True).items() if name in some}
    problem, outcome = run(Uphill(step=Fixed(step=0.5), shape=lambda up: {name: up[name] for name in some}))
    for name, tensor in problem.movable.items():
        expected = start.movable[name] + 0.5 * direction[name] if name in some else start.movable[name]
        assert torch.equal(tensor, expected)
    assert outcome.stopped == "the step was taken" and outcome.steps == 1


def test_retain_kl_grows_with_the_square_of_a_small_step_and_is_that_of_two_models() -> None:
    found = []
    for step in (0.005, 0.01):
        problem, outcome = run(Uphill(step=Fixed(step=step)))
        found.append(outcome.proposals[0]["retain_kl"]["after"])
        assert found[-1] == pytest.approx(acceptance_kl(mixed().model, problem), rel=2e-2)
    assert found[1] / found[0] == pytest.approx(4, rel=0.1)


def test_a_budget_is_cumulative_over_cycles() -> None:
    problem, outcome = run(Uphill(times=3))
    spent = [entry["retain_kl"]["after"] for entry in outcome.proposals if entry["refused"] is None]
    assert 0.8 * BUDGET < spent[0] <= BUDGET and all(value <= BUDGET for value in spent)
    assert acceptance_kl(mixed().model, problem) <= BUDGET * 1.001
    befores = [entry["retain_kl"]["before"] for entry in outcome.proposals]
    assert befores[1:] == pytest.approx(spent[: len(befores) - 1], rel=1e-6)
    # A budget of its own for each cycle, against the weights at its start, would leave it.
    apart = mixed()
    original = copy.deepcopy(apart.model)
    for _ in range(3):
        apply(Uphill(), apart, lambda entry: None)
    assert acceptance_kl(original, apart) > 1.5 * BUDGET


BROKEN: dict[str, tuple[StepRule, Shape]] = {
    "is zero": (RetainBudget(budget=BUDGET), lambda up: {name: 0 * part for name, part in up.items()}),
    "direction is not finite": (Fixed(step=1.0), lambda up: {name: part / 0 for name, part in up.items()}),
    "retain KL nan": (Fixed(step=1e30), lambda up: {name: 1e9 * part for name, part in up.items()}),
    "does nothing": (
        RetainBudget(budget=1e9),
        lambda up: {name: 1e-30 * part for name, part in up.items() if "q_proj" in name},
    ),
    "better than none": (LineSearch(), dict),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_refusal_leaves_the_weights_bit_for_bit_and_ends_the_cycles(reason: str) -> None:
    rule, shape = BROKEN[reason]
    start = mixed().snapshot()
    target = 0.0 if reason == "better than none" else None  # up is away from it
    problem, outcome = run(Uphill(step=rule, shape=shape, times=4, target=target))
    assert all(torch.equal(problem.movable[name], start[name]) for name in start)
    (entry,) = outcome.proposals
    assert reason in entry["refused"] and entry["refused"] in outcome.stopped
    assert entry["step"] is None and outcome.steps == 0
    # Going back by taking the update away again would not do.
    moved = {name: (tensor + 0.3 * torch.ones_like(tensor)) - 0.3 for name, tensor in start.items()}
    assert any(not torch.equal(moved[name], start[name]) for name in start)


def test_a_line_search_ends_at_the_least_distance() -> None:
    """Half of the step and twice the step are further away."""
    start = mixed()
    target = float(row_losses(start, start.model, start.splits["forget"]).mean()) + 1.0
    problem, outcome = run(Uphill(step=LineSearch(), target=target))
    (entry,) = outcome.proposals
    gap = (row_losses(problem, problem.model, problem.splits["forget"]) - target).abs().mean()
    assert entry["distance"]["after"] == pytest.approx(float(gap) + max(0.0, entry["retain_rise"]["after"]))
    assert entry["distance"]["after"] < entry["distance"]["before"]
    for factor in (0.5, 2.0):
        other, beside = run(Uphill(step=Fixed(step=factor * entry["step"])))
        gap = (row_losses(other, other.model, other.splits["forget"]) - target).abs().mean()
        rise = max(0.0, beside.proposals[0]["retain_rise"]["after"])
        assert float(gap) + rise > entry["distance"]["after"]


def test_the_run_goes_on_after_a_refusal_and_accumulates() -> None:
    rule, shape = BROKEN["is zero"]
    _, outcome = run(Uphill(step=rule, shape=shape, descents=(3, 2)))
    assert outcome.stopped == "uphill: refused: the direction is zero; back: all steps were taken (2 times)"
    assert outcome.steps == 5 and [entry["step"] for entry in outcome.history] == [1, 2, 3, 4, 5]


@dataclass(frozen=True)
class Mended(Uphill):
    """To the targets by one proposal, then a descent towards them that looks for its rate."""

    step: StepRule = field(default_factory=ToTargets)

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        draws = {"forget": 4, "retain": 4}
        back = Descend(loss=self.matching, draws=draws, steps=40, rate=Probe(), aims=True)
        return (*Uphill.phases(self, problem, state), back)

    def matching(self, problem: Problem, state: State, batch: Batch) -> Terms:
        losses = window_means(token_nll(target_logits(problem.model, batch), batch), batch)
        if batch.split == "forget":
            assert self.target is not None
            return Terms({"forget": losses.mean()}, state.pressure * (losses - self.target).square().mean())
        return Terms({"retain": losses.mean()}, losses.mean())


def test_a_descent_from_the_targets_mends_for_as_long_as_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its rate is that of a way from the original, and it does not settle because the rows have arrived."""
    start = mixed()
    target = float(row_losses(start, start.model, start.splits["forget"]).mean()) + 1.0
    _, outcome = run(Mended(target=target))
    assert outcome.proposals[0]["forget"]["after"] == pytest.approx(target, abs=0.1)
    assert outcome.probe is not None and outcome.probe["trace"][0]["way"] < 0.2 and len(outcome.probe["trace"]) > 3
    assert outcome.attempts[0]["steps"] == 40
    assert min(check["pressure"] for check in outcome.history if "pressure" in check) == SETTLE
    # Where the descent is taken for one like any other, it settles at its first check.
    monkeypatch.setattr(descent, "THERE", 0.0)
    _, other = run(Mended(target=target))
    assert other.attempts[0]["steps"] < 20
    # And a probe that begins at the targets has arrived at its first and smallest rate.
    monkeypatch.setattr(Problem, "restore", lambda *given: None)
    _, other = run(Mended(target=target))
    assert len(other.probe["trace"]) == 1  # type: ignore[index]


def test_tokens_are_counted_and_shared() -> None:
    problem, outcome = run(Uphill(step=Fixed(step=1e-2)))
    parts = divided(problem, PARTS).splits
    forget, accepted = parts["forget"].tokens, parts["acceptance"].tokens
    assert (
        outcome.tokens == outcome.proposals[0]["tokens"] == round(forget + accepted + (2 * forget + accepted) / 3)
    )  # what acceptance rows measure at the original is known already
    assert outcome.tokens != round(3 * forget + 3 * accepted)  # every pass as a whole one
    rule = Uphill(step=Fixed(step=1e-2), descents=(30, 10))
    _, whole = run(rule, tokens=4000)
    assert 0.9 * 4000 <= whole.tokens <= 1.1 * 4000
    here = divided(problem, PARTS)
    ground, phases = Ground.of(here, State()), flattened(rule.phases(here, State()))
    first, second = (steps_within(phases[place:], ground, 4000) for place in (1, 2))
    assert second == pytest.approx(first * 4 / 3, rel=0.1)
    with_proposal = steps_within([*phases[1:], phases[0]], ground, 4000)
    assert with_proposal < first


def test_parts_are_disjoint_and_replace_retain_inside_the_method_only() -> None:
    problem = mixed()
    parts = divided(problem, PARTS).splits
    rows = [row.content for name in PARTS for row in parts[name].rows]
    assert sorted(rows) == sorted(row.content for row in problem.splits["retain"].rows) and len(set(rows)) == len(rows)
    for name in PARTS:
        texts = {window.row: window.ids for window in parts[name].windows}
        assert sorted(texts) == list(range(len(parts[name])))
        whole = {
            problem.splits["retain"].rows[window.row].content: window.ids for window in problem.splits["retain"].windows
        }
        assert all(whole[parts[name].rows[row].content] == ids for row, ids in texts.items())
    assert divided(problem, {}) is problem


def test_without_acceptance_rows_there_is_no_proposal() -> None:
    problem = mixed()
    problem.splits = {name: split for name, split in problem.splits.items() if name != "retain"}
    with pytest.raises(InputError, match="--retain"):
        apply(Uphill(), problem, lambda entry: None)


def windows(passes: Weighed) -> float:
    return sum(times * shape.windows for times, shape in passes)


def test_a_plan_counts_passes_and_measurements() -> None:
    problem = mixed()
    one, three, probing = (
        cost(method, problem) for method in (Uphill(descents=(4,)), Uphill(times=3, descents=(4,)), Mended(target=1.0))
    )
    parts = divided(problem, PARTS).splits
    # a start, the best and the last good of an attempt, and the original, at which its probe begins
    assert (one.phases.copies, probing.phases.copies) == (1, 4)
    passes = len(parts["forget"].windows) + len(parts["acceptance"].windows)
    descended = 4 * 2  # steps of two windows
    assert windows(one.phases.trained) == passes + descended
    assert windows(three.phases.trained) == 3 * passes + descended
    assert (one.phases.updates, three.phases.updates) == (1 + 4, 3 + 4)
    more = windows(three.phases.measured) - windows(one.phases.measured)
    # its history is made of what the search measured: acceptance rows at each step, forget rows where it ended
    assert more == 2 * (USUAL * len(parts["acceptance"].windows) + len(parts["forget"].windows))
    kept = sum(window.targets for window in parts["acceptance"].windows)
    assert one.before.kept == {"distributions": kept}
    phase = Uphill().phases(problem, State())[0]
    assert isinstance(phase, Propose)
    expected = proposals.work(phase, Ground.of(divided(problem, PARTS), State())).tokens
    assert 0.5 < expected / run(Uphill())[1].tokens < 2


def test_a_line_search_costs_a_look_at_the_forget_rows_with_each_measurement() -> None:
    here = divided(mixed(), PARTS)
    ground, passes = Ground.of(here, State()), {"forget": 1.0}
    one, other = (
        proposals.work(Propose(propose=Uphill().propose, step=rule, passes=passes), ground)
        for rule in (RetainBudget(budget=BUDGET), LineSearch())
    )
    forget = here.splits["forget"]
    more = USUAL - 1  # the other looks once, where it ended
    assert windows(other.measured) - windows(one.measured) == more * len(forget.windows)
    assert other.tokens - one.tokens == pytest.approx(more * forget.tokens / 3)


def test_what_a_search_really_takes_is_what_was_counted() -> None:
    """Each measurement of a run, by how often the model read which tokens."""
    problem = mixed()
    read: list[int] = []

    def count(module: Any, arguments: Any, named: Any) -> None:
        read.append(int(named["attention_mask"].sum()))

    handle = problem.model.register_forward_pre_hook(count, with_kwargs=True)
    method = Uphill(step=Fixed(step=1e-2))
    torch.manual_seed(0)
    outcome = apply(method, problem, lambda entry: None)
    handle.remove()
    parts = divided(problem, PARTS).splits
    forget, accepted = parts["forget"].tokens, parts["acceptance"].tokens
    watched = sum(parts[name].tokens for name in ("forget", "retain", "acceptance"))
    kept = accepted  # the original's distributions, in the pass that measures its loss
    checks = 2 * watched  # before anything moves, and after the step
    counted = outcome.tokens * 3 - 2 * (
        forget + accepted
    )  # a forward pass each, the proposal's own without its backward
    assert sum(read) == pytest.approx(counted + kept + checks, abs=2)
    assert sum(read) != pytest.approx(counted + kept + checks + accepted, abs=2)  # one look left out


def test_a_proposal_is_not_asked_for_where_there_is_nothing_to_do() -> None:
    """And what was told to it decides: the same phase is asked where it says nothing."""
    told: list[Measured] = []

    def at_rest(measured: Measured) -> str | None:
        told.append(measured)
        return "at rest" if len(told) == 1 else None

    @dataclass(frozen=True)
    class Resting(Uphill):
        def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
            one = Propose(propose=self.propose, step=Fixed(step=1e-3), passes={"forget": 3}, unless=at_rest)
            return (one, one)

    problem = mixed()
    outcome = apply(Resting(), problem, lambda entry: None)
    first, second = outcome.proposals
    assert first["refused"] == "at rest" and first["step"] is None and first["notes"] == {}
    assert second["refused"] is None and second["notes"] == {"made": 1}
    assert told[0].retain_kl == pytest.approx(0.0, abs=1e-6)
    forget = problem.splits["forget"]
    assert second["tokens"] - first["tokens"] >= 3 * forget.tokens  # the first took no pass of its own
    assert first["tokens"] < forget.tokens


def test_until_ends_the_repeat_around_it_whatever_the_phase_says_of_refusals() -> None:
    """Of three cycles of two the second begins where it says that it is over; what follows the cycles is run."""
    asked: list[Measured] = []

    def over(measured: Measured) -> str | None:
        asked.append(measured)
        return "it is over" if len(asked) == 2 else None

    @dataclass(frozen=True)
    class Until(Uphill):
        def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
            one = Propose(propose=self.propose, step=Fixed(step=1e-3), passes={"forget": 1}, optional=True)
            return Repeat((replace(one, until=over, name="first"), one), 3, likely=False), replace(one, name="last")

    outcome = apply(Until(), mixed(), lambda entry: None)
    assert [(one["phase"], one["refused"]) for one in outcome.proposals] == [
        ("first", None),
        ("proposal", None),
        ("first", "it is over"),
        ("last", None),
    ]
    problem = mixed()
    last = Until().phases(problem, State())[1]
    assert isinstance(last, Propose)
    once = proposals.work(last, Ground.of(divided(problem, PARTS), State())).row_passes
    planned = cost(Until(), problem)
    assert planned.spare == pytest.approx(6 * once) and once <= planned.phases.row_passes < 2 * once


def test_a_proposal_may_say_that_it_took_less_than_its_phase_says() -> None:
    @dataclass(frozen=True)
    class Saying(Uphill):
        said: Mapping[str, float] | None = None

        def less(self, problem: Problem, state: State) -> Proposal:
            return replace(self.propose(problem, state), passes=self.said)

        def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
            return (Propose(propose=self.less, step=Fixed(step=1e-3), passes={"forget": 3}),)

    tokens = {
        said: apply(Saying(said=None if said is None else {"forget": said}), mixed(), lambda entry: None).tokens
        for said in (None, 1.0, 3.0)
    }
    assert tokens[None] == tokens[3.0]
    assert tokens[3.0] - tokens[1.0] == 2 * mixed().splits["forget"].tokens


@dataclass(frozen=True)
class Back(Uphill):
    """A step down the forget loss, which brings rows back."""

    most: float | None = None

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        (phase,) = super().phases(problem, state)
        assert isinstance(phase, Propose)
        return (replace(phase, most_back=self.most),)


def test_a_step_that_brings_a_row_back_too_far_is_halved_or_refused() -> None:
    """How far each row came back, as a share of its way, by the losses of whole, half and quarter of the step."""
    problem, step, target = mixed(), 0.4, 7.0
    start = row_losses(problem, problem.model, problem.splits["forget"])
    down = {name: -part for name, part in gradient(problem, "forget", by_rows=True).items()}
    weights, shares = problem.snapshot(), []
    for part in (step, step / 2, step / 4):
        for name, tensor in problem.movable.items():
            tensor.data = weights[name] + part * down[name]
        fell = start - row_losses(problem, problem.model, problem.splits["forget"])
        shares.append(float((fell / (target - start).clamp(min=1)).max()))
    assert shares[0] > shares[1] > shares[2] > 0

    def taken(most: float | None, target: float = target) -> tuple[float | None, str | None]:
        method = Back(step=Fixed(step=step), shape=lambda up: {name: -part for name, part in up.items()}, target=target)
        changed, outcome = run(replace(method, most=most))
        (entry,) = outcome.proposals
        at = entry["step"] or 0.0
        assert all(torch.equal(changed.movable[name], weights[name] + at * down[name]) for name in weights)
        assert (entry["forget"]["after"] is None) == (entry["step"] is None)
        return entry["step"], entry["refused"]

    assert taken(None) == taken(shares[0] * 1.001) == (step, None)
    assert taken(shares[1] * 1.001) == (step / 2, None)
    assert taken(shares[2] * 1.001) == (step / 4, None)
    refused, reason = taken(shares[2] * 0.999)
    assert refused is None and f"come back by {100 * shares[2]:.0f} % of its way" in str(reason)
    assert taken(shares[2] * 0.999, target=20.0) != (None, reason)  # of a longer way it is less
