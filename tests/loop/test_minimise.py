"""Steps of a descent: gradients of splits apart, looks at the loss along them, and what is refused; in float64."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.data.batches import Batch, Stream
from expunge.errors import NumericalError
from expunge.loop import minimise
from expunge.loop.minimise import Minimiser, linear
from expunge.method import Gradients, Terms, Trial
from expunge.model.losses import target_nll, window_means
from expunge.optim.stepper import Plain
from expunge.problem import Problem
from oracles import same
from problems import uneven

DRAWS = {"forget": 5, "retain": 7}
CLIP = 0.1
Combine = Callable[[Mapping[str, Gradients]], Gradients]


def loss_of(model: Any, batch: Batch) -> Tensor:
    return window_means(target_nll(model, batch), batch).mean()


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


@dataclass
class Run:
    """A minimiser of -forget + retain by SGD on a problem, and the batches of its first step."""

    problem: Problem = field(default_factory=uneven)
    rate: Callable[[Trial], float] = lambda trial: 0.1
    combine: Combine | None = None
    steps: int = 1
    clip: float = CLIP

    def minimiser(self) -> Minimiser:
        def loss(batch: Batch) -> Terms:
            value = loss_of(self.problem.model, batch)
            return Terms({batch.split: value}, -value if batch.split == "forget" else value)

        return Minimiser(
            self.problem,
            Plain(make=sgd, clip=self.clip).begin(self.problem, {}, 0, lambda *_: None),
            streams(self.problem),
            DRAWS,
            loss,
            self.rate,
            self.steps,
            self.combine,
        )

    def taken(self) -> Minimiser:
        made = self.minimiser()
        made.run(lambda step, losses: False, lambda *_: None)
        return made


def streams(problem: Problem) -> dict[str, Stream]:
    return {name: Stream(name, problem.splits[name].windows, 3 + place) for place, name in enumerate(DRAWS)}


def first_batches(problem: Problem) -> list[Batch]:
    return [batch for name, stream in streams(problem).items() for batch in stream.draw(DRAWS[name])]


def mean_loss(problem: Problem, split: str) -> Tensor:
    """Of the first step, as the loop weighs its batches: forget rows are ascended on."""
    sign = -1 if split == "forget" else 1
    parts = [
        sign * batch.weight * loss_of(problem.model, batch) for batch in first_batches(problem) if batch.split == split
    ]
    return torch.stack(parts).sum()


def separate(split: str) -> dict[str, Tensor]:
    """The gradient of a split alone, by a backward pass of its own on a fresh problem."""
    problem = uneven()
    found = torch.autograd.grad(mean_loss(problem, split), list(problem.movable.values()))
    return dict(zip(problem.movable, found, strict=True))


# Gradients apart


def check_apart(by_split: Mapping[str, Gradients]) -> None:
    assert set(by_split) == set(DRAWS)
    for split, found in by_split.items():
        assert same(dict(found), separate(split), 1e-12), split


def seen(problem: Problem | None = None) -> dict[str, dict[str, Tensor]]:
    """What `combine` is given in the first step."""
    given: dict[str, dict[str, Tensor]] = {}

    def combine(by_split: Mapping[str, Gradients]) -> Gradients:
        given.update({split: {name: part.clone() for name, part in one.items()} for split, one in by_split.items()})
        return by_split["forget"]

    Run(problem or uneven(), combine=combine).taken()
    return given


def test_gradients_apart_are_those_of_separate_passes() -> None:
    check_apart(seen())


def test_they_are_so_where_batches_are_cut() -> None:
    problem = uneven()
    problem.portions.tokens = 40
    check_apart(seen(problem))


@pytest.mark.parametrize(
    "broken",
    [
        lambda found: {"forget": found["retain"], "retain": found["forget"]},
        lambda found: {split: added(found) for split in found},
        lambda found: {split: {name: part / len(DRAWS) for name, part in one.items()} for split, one in found.items()},
        lambda found: {"forget": found["forget"]},
    ],
)
def test_others_would_be_seen(broken: Callable[[Any], Any]) -> None:
    with pytest.raises(AssertionError):
        check_apart(broken(seen()))


def added(by_split: Mapping[str, Gradients]) -> dict[str, Tensor]:
    total: dict[str, Tensor] = {}
    for one in by_split.values():
        for name, part in one.items():
            total[name] = total[name] + part if name in total else part
    return total


def check_sum(combine: Combine) -> None:
    """Three steps with gradients apart, and three without."""
    apart, together = Run(combine=combine, steps=3), Run(steps=3)
    assert apart.taken().tokens == together.taken().tokens
    assert same(apart.problem.snapshot(), together.problem.snapshot(), 1e-12)


def test_their_sum_is_what_no_combination_takes() -> None:
    check_sum(added)


@pytest.mark.parametrize(
    "broken",
    [
        lambda by_split: by_split["retain"],
        lambda by_split: {name: part / 2 for name, part in by_split["forget"].items()},
        lambda by_split: {name: -part for name, part in added(by_split).items()},
    ],
)
def test_another_combination_would_be_seen(broken: Combine) -> None:
    with pytest.raises(AssertionError):
        check_sum(broken)


def test_what_a_combination_leaves_out_stays() -> None:
    start = uneven()
    some = {name for name in start.movable if "layers.0" in name}
    run = Run(combine=lambda by_split: {name: part for name, part in added(by_split).items() if name in some})
    run.taken()
    moved = {name for name, tensor in run.problem.movable.items() if not torch.equal(tensor, start.movable[name])}
    assert moved == some


# Looks at the loss along the gradient


@cache
def clipped() -> dict[str, Tensor]:
    """The first step's gradient at the norm that it is clipped to."""
    whole = added({split: separate(split) for split in DRAWS})
    norm = torch.cat([part.flatten() for part in whole.values()]).norm()
    assert norm > CLIP
    return {name: part * CLIP / (norm + 1e-6) for name, part in whole.items()}


def loss_along(rate: float, split: str) -> float:
    """With another model, whose weights are moved by hand."""
    problem, gradient = uneven(), clipped()
    with torch.no_grad():
        for name, tensor in problem.movable.items():
            tensor.sub_(rate * gradient[name])
        return float(mean_loss(problem, split))


@dataclass
class Look:
    """What a rule saw of the first step, and the weights around its looks."""

    losses: dict[tuple[float, str], float] = field(default_factory=dict)
    trial: tuple[int, int, frozenset[str]] | None = None
    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)


RATES = (0.0, 1.5, -3.0, 8.0)


def looked(portions: int | None = None) -> Look:
    problem, look = uneven(), Look()
    problem.portions.tokens = portions

    def rate(trial: Trial) -> float:
        look.before = problem.snapshot()
        for one in RATES:
            for split in sorted(trial.splits):
                look.losses[one, split] = trial.loss_at(one, split)
        look.after = problem.snapshot()
        look.trial = (trial.step, trial.steps, trial.splits)
        return 0.1

    Run(problem, rate).taken()
    return look


def check_looks(look: Look) -> None:
    for (rate, split), value in look.losses.items():
        assert value == pytest.approx(loss_along(rate, split), rel=1e-9), (rate, split)
    assert all(torch.equal(look.after[name], part) for name, part in look.before.items())


def test_a_rule_sees_the_loss_at_moved_weights_which_come_back_bit_for_bit() -> None:
    look = looked()
    check_looks(look)
    assert look.trial == (0, 1, frozenset(DRAWS)) and len(look.losses) == 2 * len(RATES)


def test_it_sees_the_same_where_batches_are_cut() -> None:
    check_looks(looked(portions=40))


@contextmanager
def changed(place: Any, name: str, value: Any) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, value)
        yield


def _moves_and_stays(problem: Problem, snapshot: Any) -> None:
    return


def _rounded(problem: Problem, snapshot: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in problem.movable.items():
            tensor.copy_(snapshot[name].bfloat16())


@pytest.mark.parametrize("broken", [_moves_and_stays, _rounded])
def test_weights_that_do_not_come_back_would_be_seen(broken: Any) -> None:
    with changed(Problem, "restore", broken):
        look = looked()
    with pytest.raises(AssertionError):
        check_looks(look)


def test_other_losses_would_be_seen() -> None:
    """Moved uphill, by a gradient that was not clipped, of the other split, or a sum in place of a mean."""
    right = looked()

    def check(change: Callable[[float, str], float]) -> None:
        losses = {(rate, split): change(rate, split) for rate, split in right.losses}
        with pytest.raises(AssertionError):
            check_looks(Look(losses, right.trial, right.before, right.after))

    check(lambda rate, split: right.losses.get((-rate, split), loss_along(-rate, split)))
    check(lambda rate, split: loss_along(3 * rate, split))
    check(lambda rate, split: right.losses[rate, "retain" if split == "forget" else "forget"])
    check(lambda rate, split: right.losses[rate, split] * DRAWS[split])


def test_the_rate_of_a_rule_is_that_of_the_step() -> None:
    run, gradient = Run(rate=lambda trial: 0.25), clipped()
    start = uneven()
    run.taken()
    expected = {name: tensor.detach() - 0.25 * gradient[name] for name, tensor in start.movable.items()}
    assert same(run.problem.snapshot(), expected, 1e-12)
    other = {name: tensor.detach() - 0.2 * gradient[name] for name, tensor in start.movable.items()}
    assert not same(run.problem.snapshot(), other, 1e-12)


def tokens_of_looks(looks: int) -> int:
    """Tokens of a step whose rule looks so often at the retain rows."""

    def rate(trial: Trial) -> float:
        return sum(trial.loss_at(0.1, "retain") for _ in range(looks)) * 0 + 0.1

    return Run(rate=rate).taken().tokens


def check_tokens(tokens: Callable[[int], int]) -> None:
    batches = first_batches(uneven())
    step = sum(int(batch.attention.sum()) for batch in batches)
    retain = sum(int(batch.attention.sum()) for batch in batches if batch.split == "retain")
    assert tokens(0) == step
    assert tokens(3) == step + retain
    assert tokens(1) == round(step + retain / 3)


def test_a_look_counts_a_third() -> None:
    check_tokens(tokens_of_looks)
    for share in (1.0, 0.0):
        with changed(minimise, "MEASURING", share), pytest.raises(AssertionError):
            check_tokens(tokens_of_looks)


# What is refused, and the usual rate


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_moves_nothing(value: float) -> None:
    def combine(by_split: Mapping[str, Gradients]) -> Gradients:
        found = copy.deepcopy(dict(by_split["forget"]))
        next(iter(found.values())).view(-1)[0] = value
        return found

    run, start = Run(combine=combine), uneven()
    with pytest.raises(NumericalError, match="step 1: the loss or its gradient is not finite"):
        run.taken()
    assert all(torch.equal(tensor, start.movable[name]) for name, tensor in run.problem.movable.items())
    assert all(tensor.grad is None for tensor in run.problem.movable.values())


def test_the_usual_rate_rises_and_falls_to_a_tenth() -> None:
    """20 steps, of which 4 warm up: a fifth of the peak more each, then down by 0.9 / 16 each."""
    rate = linear(1.0, 20, 4)
    found = [rate(Trial(step, 20, frozenset(), None, lambda *_: 0.0)) for step in range(20)]  # type: ignore[arg-type]
    assert found[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert found[6] == pytest.approx(1 - 0.9 * 2 / 16)
    assert found[-1] == pytest.approx(1 - 0.9 * 15 / 16) and min(found[4:]) > 0.1
    assert linear(1.0, 20, 0)(Trial(0, 20, frozenset(), None, lambda *_: 0.0)) == 1.0  # type: ignore[arg-type]
