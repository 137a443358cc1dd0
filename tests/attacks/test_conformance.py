"""One sweep over every attack, found by discovery: it says what it is, is deterministic, leaves the model as it was,
and costs what it says. Each check is shown to reject an attack that is spoilt in its way.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import pytest
import torch

from expunge import registry
from expunge.attack import Asks, Level, Reading, Subject
from expunge.attacks.rounding import Rounding, even, round_all
from expunge.attacks.sampling import Sampling
from expunge.data.passes import Passes
from expunge.errors import NumericalError
from expunge.evaluation import attacked, evidence
from expunge.loop.minimise import Minimiser
from expunge.problem import Problem, Split
from expunge.scoring.seen import FIGURES
from problems import rows_of, text_problem

ATTACKS = registry.names("attacks")
SETS = ("forget", "judging", "retain")


@pytest.fixture(scope="module", autouse=True)
def few_steps() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("expunge.attacks.relearning.STEPS", (1, 2))
        patch.setattr("expunge.attacks.sampling.SAMPLES", 3)
        patch.setattr("expunge.attacks.sampling.TRIES", 2)
        yield


@pytest.fixture(scope="module")
def problem() -> Problem:
    """Answers and documents of a model that knows none of them."""
    rows = {
        name: rows_of(name, [f"{n * 37 + place}" for n in range(8)], [f"{name} is {n} words" for n in (0, 1)])
        for place, name in enumerate(SETS)
    }
    made = text_problem(rows, width=16, context=160)
    made.model.requires_grad_(False)
    return replace(made, movable={})


@dataclass(frozen=True)
class Watched:
    """What an attack read, whether the model and the global chance are as they were, and the row passes that went
    through the model and the texts that were generated, beside those that were planned."""

    readings: list[Reading]
    put_back: bool
    row_passes: float
    planned: float
    texts: int
    planned_texts: int


def watch(attack: Any, problem: Problem) -> Watched:
    """Runs an attack."""
    over, count, went = Problem.over, Minimiser._count, [0.0]
    continued, texts = evidence.continued, [0]

    def counted(self: Problem, split: Split, work: Callable[..., None]) -> None:
        went[0] += len(split.windows) / 3
        over(self, split, work)

    def generated(problem: Problem, rows: Any, prompts: Any, *more: Any, **named: Any) -> Any:
        texts[0] += len(prompts)
        return continued(problem, rows, prompts, *more, **named)

    def stepped(self: Minimiser, batches: Any) -> None:
        went[0] += sum(len(batch.windows) for batch in batches)
        count(self, batches)

    before = {name: tensor.detach().clone() for name, tensor in problem.model.named_parameters()}
    chance = torch.get_rng_state()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Problem, "over", counted)
        patch.setattr(Minimiser, "_count", stepped)
        patch.setattr(evidence, "continued", generated)
        readings = attacked.run_some({"one": attack}, problem, problem.splits, lambda: problem)["one"]
    after = dict(problem.model.named_parameters())
    same = before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    still = not any(tensor.requires_grad or tensor.grad is not None for tensor in after.values())
    put_back = same and still and torch.equal(chance, torch.get_rng_state())
    planned: Passes = attack.cost(attacked.planned(replace(problem, model=None), problem.splits, 128))
    planned_texts = sum(one.windows for one in planned.generated)
    return Watched(readings, put_back, went[0], planned.row_passes, texts[0], planned_texts)


def check_readings(first: Watched, second: Watched, problem: Problem) -> None:
    """Twice the same, by rows in the order of the sets; shares are shares."""
    assert first.readings and len({one.setting for one in first.readings}) == len(first.readings)
    for one, other in zip(first.readings, second.readings, strict=True):
        assert one.setting == other.setting and set(one.seen) == {"forget", "judging"}
        for name, seen in one.seen.items():
            assert seen.kinds == tuple(row.kind for row in problem.splits[name].rows)
            assert all(np.array_equal(seen.figure(f), other.seen[name].figure(f), equal_nan=True) for f in FIGURES)
            known = seen.known[~np.isnan(seen.known)]
            assert ((known >= 0) & (known <= 1)).all()
    every = [seen.figure(f) for one in first.readings for seen in one.seen.values() for f in FIGURES]
    assert not all(np.isnan(values).all() for values in every)


def check_put_back(first: Watched, second: Watched, problem: Problem) -> None:
    """Weights are what they were, bit for bit, and so is what may move, and the global chance."""
    assert first.put_back and second.put_back


def check_cost(first: Watched, second: Watched, problem: Problem) -> None:
    """Windows that went through the model were planned, and texts that it generated."""
    assert first.planned == pytest.approx(first.row_passes)
    assert first.planned_texts == first.texts


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_says_what_it_is(name: str) -> None:
    kind = registry.load("attacks", name)
    assert kind.title and kind.title == kind.title.strip() and kind.title[0].islower()
    assert kind.question.endswith("?") and kind.level in get_args(Level) and kind.asks in get_args(Asks)
    assert 0 < kind.margin < 1 and kind.level != "quick"
    assert isinstance(kind.beside_original, bool) and isinstance(kind.twin_only, bool)
    assert isinstance(kind.needs_weights, bool)


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack(name: str, problem: Problem) -> None:
    attack = registry.load("attacks", name)()
    first, second = watch(attack, problem), watch(attack, problem)
    for check in (check_readings, check_put_back, check_cost):
        check(first, second, problem)


@dataclass(frozen=True)
class Spoilt:
    """Rounding, with a fault."""

    cost = Rounding.cost
    fault: Callable[[Subject, Reading], Reading]

    def run(self, subject: Subject) -> Iterator[Reading]:
        readings = list(Rounding().run(subject))
        yield from (self.fault(subject, reading) for reading in readings)


def test_a_model_that_computes_no_numbers_has_no_readings(problem: Problem) -> None:
    def breaks(subject: Subject, reading: Reading) -> Reading:
        raise NumericalError("step 1: the loss or its gradient is not finite.")

    assert watch(Spoilt(breaks), problem).readings == []


def _by_chance(subject: Subject, reading: Reading) -> Reading:
    seen = {name: replace(one, loss=one.loss + torch.rand(1).item()) for name, one in reading.seen.items()}
    return replace(reading, seen=seen)


def _percent(subject: Subject, reading: Reading) -> Reading:
    return replace(reading, seen={name: replace(one, known=one.known + 2) for name, one in reading.seen.items()})


def _leaves_it(subject: Subject, reading: Reading) -> Reading:
    subject.problem.model.get_parameter("model.layers.0.mlp.up_proj.weight").requires_grad_(True)
    return reading


def _looks_again(subject: Subject, reading: Reading) -> Reading:
    return replace(reading, seen=subject.look(subject.problem, subject.judged))


def _stays_rounded(subject: Subject, reading: Reading) -> Reading:
    round_all(subject.problem.model, even(4))
    return reading


@pytest.mark.parametrize(
    ("fault", "checks"),
    [
        (_by_chance, (check_readings, check_put_back)),
        (_percent, (check_readings,)),
        (_leaves_it, (check_put_back,)),
        (_looks_again, (check_cost,)),
        (_stays_rounded, (check_readings, check_put_back)),
    ],
)
def test_checks_reject(fault: Callable[..., Any], checks: Any, problem: Problem) -> None:
    before = {name: tensor.detach().clone() for name, tensor in problem.model.named_parameters()}
    first, second = watch(Spoilt(fault), problem), watch(Spoilt(fault), problem)
    with torch.no_grad():
        for name, tensor in problem.model.requires_grad_(False).named_parameters():
            tensor.copy_(before[name])
    for check in (check_readings, check_put_back, check_cost):
        if check in checks:
            with pytest.raises(AssertionError):
                check(first, second, problem)
        else:
            check(first, second, problem)


def test_all_samples_are_planned(problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the 256 rows of a set that evidence generates from."""
    monkeypatch.setattr("expunge.attacks.sampling.SAMPLES", 40)
    given = attacked.planned(replace(problem, model=None), problem.splits, 128)
    rows = sum(len(problem.splits[name].rows) for name in ("forget", "judging"))
    assert 40 * min(len(problem.splits[name].rows) for name in ("forget", "judging")) > 256
    assert sum(one.windows for one in Sampling().cost(given).generated) == 2 * 40 * rows


def test_never_seen_rows_are_looked_at_where_they_are_compared_with(problem: Problem) -> None:
    """Alone, and by a probe; what that saves is planned."""
    assert set(attacked.looked_at(problem.splits, Rounding(), True)) == set(SETS)
    assert set(attacked.looked_at(problem.splits, Rounding(), False)) == {"forget", "retain"}
    assert set(attacked.looked_at(problem.splits, registry.load("attacks", "probe")(), False)) == set(SETS)
    found = attacked.run_some({"one": Rounding()}, problem, problem.splits, lambda: problem, alone=False)
    assert [set(one.seen) for one in found["one"]] == [{"forget"}] * 3
    bare = replace(problem, model=None)
    alone, beside = (attacked.cost(bare, problem.splits, "full", 128, twin).row_passes for twin in (False, True))
    assert len(problem.splits["forget"].windows) == len(problem.splits["judging"].windows)
    assert beside == pytest.approx(alone), "the twin's forget rows in place of as many never-seen ones"
