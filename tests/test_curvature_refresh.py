"""Sophia in the loop: when it refreshes, on which rows, what it notes, and that AdamW's path is as it was."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from expunge.data.batches import Batch, Stream
from expunge.errors import NumericalError
from expunge.gradients.bartlett import Estimate
from expunge.influence import refresh
from expunge.loop.phases import apply, tokens_per_step
from expunge.loop.steps import Descent, minimise, optimiser_of
from expunge.method import LossPhase, Phase, State, Terms
from expunge.methods.gradient_difference import GradientDifference
from expunge.model.losses import target_logits
from expunge.optim.sophia import LIBU, SOUL, SophiaSettings
from expunge.problem import Problem
from oracles import token_nll
from problems import rows_of, text_problem

SETTINGS = SophiaSettings(refresh_every=4, refresh_rows=3, refresh_most=2)


def made(names: tuple[str, ...] = ("forget", "retain")) -> Problem:
    """Six answers in each split."""
    rows = {name: rows_of(name, [f"{n * 37 + place}" for n in range(6)]) for place, name in enumerate(names)}
    return text_problem(rows, width=16, layers=1, context=32)


class Descending:
    """Gradient difference with the optimiser that is given."""

    def __init__(self, settings: SophiaSettings | None, epochs: int = 6) -> None:
        self.settings = settings
        self.inner = GradientDifference(forget_rows=2, epochs=epochs, learning_rate=1e-3)

    def init(self, problem: Problem) -> State:
        return State()

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        (phase,) = self.inner.phases(problem, state)
        assert isinstance(phase, LossPhase)
        return (replace(phase, optimiser=self.settings),)


class Spy:
    """Stands for the estimator: keeps what it was asked, answers with ones."""

    def __init__(self, value: float = 1.0) -> None:
        self.asked: list[list[Batch]] = []
        self.value = value

    def __call__(self, problem: Problem, batches: Any, generator: torch.Generator, estimator: str) -> Estimate:
        self.asked.append(list(batches))
        diagonal = [torch.full_like(parameter, self.value) for parameter in problem.movable.values()]
        return Estimate(diagonal, 1, sum(int(batch.attention.sum()) for batch in self.asked[-1]))


def spied(monkeypatch: pytest.MonkeyPatch, settings: SophiaSettings, problem: Problem, value: float = 1.0) -> Any:
    """The outcome of 18 steps, and the estimator's spy."""
    spy = Spy(value)
    monkeypatch.setattr(refresh, "estimate", spy)
    return apply(Descending(settings), problem, lambda entry: None), spy


def test_refreshes_every_k_steps_and_notes_the_share_midway(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome, spy = spied(monkeypatch, SETTINGS, made())
    assert outcome.steps == 18
    assert len(spy.asked) == 5  # before steps 1, 5, 9, 13, 17
    notes = outcome.notes["sophia"]
    assert [note["step"] for note in notes] == [3, 7, 11, 15]
    assert {"step", "unclipped", "gamma", "attempt", "phase", "during"} == set(notes[0])
    assert all(0 <= note["unclipped"] <= 1 and note["gamma"] > 0 for note in notes)


@pytest.mark.parametrize(
    ("names", "where", "expected"),
    [
        (("forget", "retain"), "retain", {"retain"}),
        (("forget", "retain", "curvature"), "retain", {"curvature"}),
        (("forget",), "retain", {"forget"}),
        (("forget", "retain"), "batch", {"forget", "retain"}),
    ],
)
def test_the_rows_that_curvature_is_taken_on(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, ...], where: Any, expected: set[str]
) -> None:
    _, spy = spied(monkeypatch, replace(SETTINGS, curvature_on=where), made(names))
    assert {batch.split for batches in spy.asked for batch in batches} == expected
    if where == "retain" and len(names) > 1:
        assert all(sum(len(batch.windows) for batch in batches) == 3 for batches in spy.asked)
        assert all(len(batch.windows) <= 2 for batches in spy.asked for batch in batches)
        drawn = {tuple(int(window) for batch in batches for window in batch.windows) for batches in spy.asked}
        assert len(drawn) > 1


@pytest.mark.parametrize("where", ["retain", "batch"])
def test_tokens_of_refreshes_are_counted(monkeypatch: pytest.MonkeyPatch, where: Any) -> None:
    settings, problem = replace(SETTINGS, curvature_on=where), made()
    plain = apply(Descending(None), made(), lambda entry: None)
    outcome, spy = spied(monkeypatch, settings, problem)
    refreshed = sum(int(batch.attention.sum()) for batches in spy.asked for batch in batches)
    assert outcome.tokens == plain.tokens + refreshed  # the same rows in the same steps: refreshes draw from their own
    expected = []
    for settings_or_none in (settings, None):
        (phase,) = Descending(settings_or_none).phases(problem, State())
        assert isinstance(phase, LossPhase)
        expected.append(tokens_per_step(problem, State(), phase))
    assert (expected[0] - expected[1]) * 18 == pytest.approx(refreshed, rel=0.2)  # 4.5 refreshes expected, 5 taken


def test_gamma_is_set_anew_only_after_the_share_strayed(monkeypatch: pytest.MonkeyPatch) -> None:
    gammas = {}
    for bounds in ((0.0, 1.0), (0.299, 0.301)):
        outcome, _ = spied(monkeypatch, replace(SETTINGS, unclipped_range=bounds), made())
        gammas[bounds] = [note["gamma"] for note in outcome.notes["sophia"]]
    assert len(set(gammas[0.0, 1.0][1:])) == 1  # set at the first two refreshes
    assert len(set(gammas[0.299, 0.301])) == 4


@pytest.mark.parametrize("settings", [SOUL, LIBU])
def test_released_variants_never_estimate_but_are_measured(
    monkeypatch: pytest.MonkeyPatch, settings: SophiaSettings
) -> None:
    outcome, spy = spied(monkeypatch, replace(settings, refresh_every=4), made())
    assert not spy.asked and len(outcome.notes["sophia"]) == 4


def test_an_estimate_that_is_not_finite_ends_at_the_last_good_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = made()
    before = problem.snapshot()
    outcome, _ = spied(monkeypatch, SETTINGS, problem, float("nan"))
    assert "estimate of the curvature is not finite" in outcome.stopped
    assert all(torch.equal(before[name], tensor) for name, tensor in problem.movable.items())


def test_same_seed_same_weights_and_no_global_chance() -> None:
    ends = []
    for seed in (0, 1):
        problem = made()
        torch.manual_seed(seed)
        apply(Descending(SETTINGS, epochs=2), problem, lambda entry: None)
        ends.append(problem.snapshot())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    for estimator in ("bartlett", "squared"):
        problem = made()
        apply(Descending(replace(SETTINGS, estimator=estimator), epochs=2), problem, lambda entry: None)
        assert not all(torch.equal(ends[0][name], tensor) for name, tensor in problem.movable.items())


def steps_by_hand(problem: Problem, count: int) -> None:
    """AdamW written out, with the loop's clipping."""
    optimiser = torch.optim.AdamW(list(problem.movable.values()), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.0)
    stream = Stream("retain", problem.splits["retain"].windows, 7)
    for _ in range(count):
        for batch in stream.draw(2):
            (token_nll(target_logits(problem.model, batch), batch).mean() * batch.weight).backward()
        torch.nn.utils.clip_grad_norm_(list(problem.movable.values()), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def test_adamw_without_settings_is_bit_identical_to_adamw_by_hand() -> None:
    ends = []
    for hand in (True, False):
        problem = made()
        if hand:
            steps_by_hand(problem, 5)
        else:
            stream = Stream("retain", problem.splits["retain"].windows, 7)

            def loss(batch: Batch, problem: Problem = problem) -> Terms:
                value = token_nll(target_logits(problem.model, batch), batch).mean()
                return Terms({"loss": value}, value)

            descent = Descent(rate=lambda step: 1e-3, steps=5)
            minimise(
                problem,
                optimiser_of(problem),
                lambda step, stream=stream: stream.draw(2),  # type: ignore[misc]
                loss,
                descent,
                lambda step, losses: False,
                lambda step, text: None,
            )
        ends.append(problem.snapshot())
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


@pytest.mark.parametrize(("settings", "norm"), [(SETTINGS, 1.0), (replace(SETTINGS, clip=0.25), 0.25), (LIBU, np.inf)])
def test_the_gradient_is_clipped_to_the_settings_norm(
    settings: SophiaSettings, norm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    norms: list[float] = []
    problem = made()
    clip = problem.runtime.clip

    def spy(parameters: Any, most: float) -> Any:
        norms.append(most)
        return clip(parameters, most)

    monkeypatch.setattr(problem.runtime, "clip", spy)
    apply(Descending(settings, epochs=1), problem, lambda entry: None)
    assert norms == [norm] * 3


def test_a_loss_that_is_not_finite_leaves_the_notes(monkeypatch: pytest.MonkeyPatch) -> None:
    problem, calls = made(), iter(range(100))
    before = Stream.draw

    def draw(self: Stream, count: int, most: int = 32) -> list[Batch]:
        if next(calls) == 20:
            raise NumericalError("made up.")
        return before(self, count, most)

    monkeypatch.setattr(Stream, "draw", draw)
    outcome = apply(Descending(SETTINGS), problem, lambda entry: None)
    assert "made up" in outcome.stopped and outcome.notes["sophia"] and outcome.tokens


def test_controls_keep_the_values_or_make_them_one() -> None:
    """Shuffled: the same numbers in other places, the same places every time. Identity: one for all."""
    parts = [torch.arange(12.0).view(3, 4), torch.arange(5.0)]
    once, twice = (refresh._controlled(parts, "shuffled") for _ in range(2))
    for part, first, second in zip(parts, once, twice, strict=True):
        assert torch.equal(first, second) and not torch.equal(first, part)
        assert torch.equal(first.flatten().sort().values, part.flatten())
    assert all(bool((part == 1).all()) for part in refresh._controlled(parts, "identity"))
    assert refresh._controlled(parts, "none") is parts
