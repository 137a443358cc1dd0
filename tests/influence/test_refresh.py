"""Sophia in the loop: when it refreshes, on which rows, what it notes, and that AdamW's path is as it was."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from expunge.data.batches import Batch, Stream
from expunge.errors import NumericalError
from expunge.gradients.estimates import SAMPLED, Estimate, Source, estimate
from expunge.influence.refresh import SophiaStepper, WithSophia, rows_of
from expunge.loop.minimise import Minimiser
from expunge.loop.phases import apply
from expunge.loop.watch import Outcome
from expunge.method import Descend, Method, Phase, State, Terms
from expunge.methods.gradient_difference import GradientDifference
from expunge.methods.libu_as_published import released
from expunge.model.losses import target_logits
from expunge.optim.sophia import SophiaSettings
from expunge.optim.stepper import Optimiser, Plain
from expunge.problem import Problem
from oracles import token_nll
from problems import rows_of as answers
from problems import text_problem

SETTINGS = SophiaSettings(refresh_every=4, refresh_rows=3, refresh_most=2)
STEPS = 18
RELEASED = WithSophia(
    settings=SophiaSettings(gamma=1.2, betas=(0.9, 0.999), eps=1e-8, clip=float("inf"), refresh_every=4),
    rule=released(0.06),
    estimate=None,
)
DATA = Source(lambda logits, batch, generator: token_nll(logits, batch).sum(), lambda shape, dtype, generator: None)


def made(names: tuple[str, ...] = ("forget", "retain")) -> Problem:
    """Six answers in each split."""
    rows = {name: answers(name, [f"{n * 37 + place}" for n in range(6)]) for place, name in enumerate(names)}
    return text_problem(rows, width=16, layers=1, context=32)


class Descending(Method):
    """Gradient difference with the optimiser that is given."""

    def __init__(self, optimiser: Optimiser, epochs: int = 6) -> None:
        self.optimiser = optimiser
        self.inner = GradientDifference(forget_rows=2, epochs=epochs, learning_rate=1e-3)

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        (phase,) = self.inner.phases(problem, state)
        assert isinstance(phase, Descend)
        return (replace(phase, optimiser=self.optimiser),)


def run(optimiser: Optimiser, problem: Problem, epochs: int = 6) -> Outcome:
    return apply(Descending(optimiser, epochs), problem, lambda entry: None)


class Spy:
    """Stands for the estimate: keeps what it was asked, answers with one number everywhere."""

    def __init__(self, value: float = 1.0) -> None:
        self.asked: list[list[Batch]] = []
        self.value = value

    def __call__(self, problem: Problem, batches: Sequence[Batch], generator: torch.Generator) -> Estimate:
        self.asked.append(list(batches))
        diagonal = [torch.full_like(parameter, self.value) for parameter in problem.movable.values()]
        return Estimate(diagonal, 1, self.tokens(-1))

    def tokens(self, place: int) -> int:
        return sum(int(batch.attention.sum()) for batch in self.asked[place])


def spied(settings: SophiaSettings, problem: Problem, value: float = 1.0) -> tuple[Outcome, Spy]:
    """The outcome of 18 steps, and the spy."""
    spy = Spy(value)
    return run(WithSophia(settings=settings, estimate=spy), problem), spy


def test_refreshes_every_k_steps_and_notes_the_share_midway() -> None:
    outcome, spy = spied(SETTINGS, made())
    assert outcome.steps == STEPS
    assert len(spy.asked) == 5  # before steps 1, 5, 9, 13, 17
    notes = outcome.notes["sophia"]
    assert [note["step"] for note in notes] == [3, 7, 11, 15]
    assert {"step", "unclipped", "gamma", "attempt", "phase", "during"} == set(notes[0])
    assert all(0 <= note["unclipped"] <= 1 and note["gamma"] > 0 for note in notes)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("forget", "retain"), {"retain"}),
        (("forget", "retain", "curvature"), {"curvature"}),
        (("forget", "curvature"), {"curvature"}),
        (("forget",), {"forget"}),
    ],
)
def test_the_rows_that_curvature_is_taken_on(names: tuple[str, ...], expected: set[str]) -> None:
    """Those whose loss should not move; without any, those of the step."""
    problem = made(names)
    _, spy = spied(SETTINGS, problem)
    assert {batch.split for batches in spy.asked for batch in batches} == expected
    split = rows_of(problem.splits)
    assert (split.name if split else "forget") in expected
    if split is not None:
        assert all(sum(len(batch.windows) for batch in batches) == 3 for batches in spy.asked)
        assert all(len(batch.windows) <= 2 for batches in spy.asked for batch in batches)
        drawn = {tuple(int(window) for batch in batches for window in batch.windows) for batches in spy.asked}
        assert len(drawn) > 1


def test_without_rows_of_its_own_it_takes_the_step_s_batches() -> None:
    """The very windows that the step draws, at the weights that it starts from."""
    problem = made(("forget",))
    _, spy = spied(SETTINGS, problem)
    stream = Stream("forget", problem.splits["forget"].windows, problem.seed)
    steps = [stream.draw(2) for _ in range(STEPS)]
    expected = [[int(window) for batch in steps[place] for window in batch.windows] for place in range(0, STEPS, 4)]
    found = [[int(window) for batch in batches for window in batch.windows] for batches in spy.asked]
    assert found == expected
    late = [[int(window) for batch in steps[place] for window in batch.windows] for place in range(1, STEPS, 4)]
    assert found != late  # the batches of the next step


@pytest.mark.parametrize("names", [("forget", "retain"), ("forget",)])
def test_tokens_of_refreshes_are_counted(names: tuple[str, ...]) -> None:
    problem = made(names)
    plain = run(Plain(), made(names))
    outcome, spy = spied(SETTINGS, problem)
    refreshed = sum(spy.tokens(place) for place in range(len(spy.asked)))
    assert outcome.tokens == plain.tokens + refreshed  # the same rows in the same steps: refreshes draw from their own
    draws = {"forget": 2, "retain": 2}
    planned = WithSophia(settings=SETTINGS).cost(problem.splits, draws, problem.seed, STEPS).tokens
    assert planned == pytest.approx(refreshed, rel=0.05)  # of other rows, whose lengths are near
    once_too_few = WithSophia(settings=SETTINGS).cost(problem.splits, draws, problem.seed, STEPS - 4).tokens
    assert once_too_few != pytest.approx(refreshed, rel=0.05)
    assert WithSophia(settings=SETTINGS, estimate=None).cost(problem.splits, draws, problem.seed, STEPS).tokens == 0
    assert Plain().cost(problem.splits, draws, problem.seed, STEPS).tokens == 0


def test_gamma_is_set_anew_only_after_the_share_strayed() -> None:
    gammas = {}
    for bounds in ((0.0, 1.0), (0.299, 0.301)):
        outcome, _ = spied(replace(SETTINGS, unclipped_range=bounds), made())
        gammas[bounds] = [note["gamma"] for note in outcome.notes["sophia"]]
    assert len(set(gammas[0.0, 1.0][1:])) == 1  # set at the first two refreshes
    assert len(set(gammas[0.299, 0.301])) == 4


def test_a_rule_that_takes_its_curvature_from_gradients_never_estimates_but_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spy = Spy()
    monkeypatch.setattr("expunge.influence.refresh.estimate", spy)
    outcome = run(RELEASED, made())
    assert not spy.asked and len(outcome.notes["sophia"]) == 4


def test_an_estimate_that_is_not_finite_ends_at_the_last_good_weights() -> None:
    problem = made()
    before = problem.snapshot()
    outcome, _ = spied(SETTINGS, problem, float("nan"))
    assert "estimate of the curvature is not finite" in outcome.stopped
    assert all(torch.equal(before[name], tensor) for name, tensor in problem.movable.items())


def test_same_seed_same_weights_and_no_global_chance() -> None:
    ends = []
    for seed in (0, 1):
        problem = made()
        torch.manual_seed(seed)
        run(WithSophia(settings=SETTINGS), problem, epochs=2)
        ends.append(problem.snapshot())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    for source in (SAMPLED, DATA):
        problem = made()
        run(WithSophia(settings=SETTINGS, estimate=partial(estimate, source=source)), problem, epochs=2)
        assert not all(torch.equal(ends[0][name], tensor) for name, tensor in problem.movable.items())


def refreshed(stepper: SophiaStepper, spy: Spy, steps: range) -> tuple[list[list[int]], list[float | None]]:
    """The windows of each refresh, and gamma after each step, in steps of gradients that grow."""
    already = len(spy.asked)
    gammas = []
    for step in steps:
        stepper.before(step, [])
        for tensor in stepper.problem.movable.values():
            tensor.grad = torch.linspace(-1, 1 + step, tensor.numel()).view_as(tensor)
        stepper.optimiser.step()
        stepper.after(step)
        gammas.append(stepper.optimiser.gamma)
    return [[int(one) for batch in batches for one in batch.windows] for batches in spy.asked[already:]], gammas


def test_a_restored_stepper_goes_on_as_the_first() -> None:
    """With the next rows, the next noise, and what the last check found; left out, each of them would be missed."""
    spy, drawn = Spy(), list[float]()

    def noisy(problem: Problem, batches: Sequence[Batch], generator: torch.Generator) -> Estimate:
        drawn.append(float(torch.rand(1, generator=generator)))
        return spy(problem, batches, generator)

    settings = replace(SETTINGS, unclipped_range=(0.299, 0.301))  # strays at every check

    def begin() -> SophiaStepper:
        problem = made()
        return WithSophia(settings=settings, estimate=noisy).begin(problem, problem.splits, 5, lambda name, notes: None)

    def ended(stepper: SophiaStepper) -> tuple[Any, ...]:
        drawn.clear()
        return (*refreshed(stepper, spy, range(11, 19)), list(drawn), stepper.tokens)

    first = begin()
    refreshed(first, spy, range(11))
    states = deepcopy((first.state_dict(), first.optimiser.state_dict(), first.problem.snapshot()))
    kept = torch.get_rng_state()
    expected = ended(first)

    def restored(**changes: Any) -> SophiaStepper:
        stepper = begin()
        stepper.problem.restore(states[2])
        stepper.optimiser.load_state_dict(deepcopy(states[1]))
        stepper.load_state_dict(states[0] | changes)
        return stepper

    assert torch.equal(torch.get_rng_state(), kept)
    assert ended(restored()) == expected
    anew = begin()
    assert ended(restored(random=anew.state_dict()["random"])) != expected
    assert ended(restored(strayed=False)) != expected
    assert ended(restored(tokens=0)) != expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Stream, "skip", lambda *given: None)
        assert ended(restored()) != expected


def steps_by_hand(problem: Problem, count: int) -> None:
    """AdamW written out, with the loop's clipping."""
    moved = list(problem.movable.values())
    optimiser = torch.optim.AdamW(moved, lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0, fused=True)
    stream = Stream("retain", problem.splits["retain"].windows, 7)
    for _ in range(count):
        for batch in stream.draw(2):
            (token_nll(target_logits(problem.model, batch), batch).mean() * batch.weight).backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(list(problem.movable.values()), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def test_plain_is_bit_identical_to_adamw_by_hand() -> None:
    ends = []
    for hand in (True, False):
        problem = made()
        if hand:
            steps_by_hand(problem, 5)
        else:

            def loss(batch: Batch, problem: Problem = problem) -> Terms:
                value = token_nll(target_logits(problem.model, batch), batch).mean()
                return Terms({"loss": value}, value)

            minimiser = Minimiser(
                problem,
                Plain().begin(problem, problem.splits, 0, lambda name, figures: None),
                {"retain": Stream("retain", problem.splits["retain"].windows, 7)},
                {"retain": 2},
                loss,
                lambda trial: 1e-3,
                steps=5,
            )
            minimiser.run(lambda step, losses: False, lambda done, note="": None)
        ends.append(problem.snapshot())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(
    ("optimiser", "norm"),
    [
        (Plain(), 1.0),
        (Plain(clip=0.5), 0.5),
        (WithSophia(settings=SETTINGS), 1.0),
        (WithSophia(settings=replace(SETTINGS, clip=0.25)), 0.25),
        (RELEASED, np.inf),
    ],
)
def test_the_gradient_is_clipped_to_the_optimiser_s_norm(
    optimiser: Optimiser, norm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    problem = made()
    clip = problem.runtime.clip

    def spy(parameters: Any, most: float) -> Any:
        norms.append(most)
        return clip(parameters, most)

    monkeypatch.setattr(problem.runtime, "clip", spy)
    run(optimiser, problem, epochs=1)
    assert norms == [norm] * 3


def test_a_loss_that_is_not_finite_leaves_the_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, calls = made(), iter(range(100))
    before = Stream.draw

    def draw(self: Stream, count: int, most: int = 32) -> list[Batch]:
        if next(calls) == 20:
            raise NumericalError("made up.")
        return before(self, count, most)

    monkeypatch.setattr(Stream, "draw", draw)
    outcome = run(WithSophia(settings=SETTINGS), problem)
    assert "made up" in outcome.stopped and outcome.notes["sophia"] and outcome.tokens
