"""What docs/methods/papers.md says of our libu and fisher_forgetting: signs, readings, and the released rules."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from expunge.curvature import inner
from expunge.gradients.summed import mean_gradient
from expunge.influence.refresh import WithSophia
from expunge.method import Descend, Propose, State, flattened
from expunge.methods.fisher_forgetting import FisherForgetting
from expunge.methods.libu import LIBU
from expunge.methods.libu_as_published import SETUPS, LIBUAsPublished, Setup, squared_batch_means
from expunge.optim.sophia import Rule, SophiaSettings
from expunge.optim.step_size import Fixed, RetainBudget
from expunge.optim.stepper import Plain
from expunge.problem import Problem
from oracles import same
from problems import lora_of, problem_of

PARTS = {"forget": (1, 1, 1), "retain": (1, 1), "curvature": (1, 1, 1, 1), "acceptance": (1, 1)}


def problem(fresh: bool = False) -> Problem:
    return problem_of(lora_of("llama", fresh=fresh), PARTS)


def test_phase_one_climbs_and_as_published_descends() -> None:
    """By the slope of the forget loss along the direction, which the step multiplies by a positive number."""
    made = problem()
    assert (LIBU()._ascend(made, State()).forget_slope or 0) > 0
    assert (LIBUAsPublished().descend(made, State()).forget_slope or 0) < 0


def test_phase_one_as_published_is_minus_g_over_f_plus_lambda() -> None:
    made = problem()
    gradient = mean_gradient(made, made.splits["forget"], "row")
    fisher = squared_batch_means(made, made.splits["curvature"], 4)  # set-up 3: batches of 4
    expected = {name: -part / (fisher[name] + 1e-3) for name, part in gradient.items()}
    found = LIBUAsPublished().descend(made, State())
    assert same(dict(found.direction), expected)
    assert found.forget_slope == pytest.approx(inner(gradient, expected))
    assert not same(dict(found.direction), {name: -part for name, part in expected.items()})


def test_on_a_fresh_lora_only_b_moves() -> None:
    """A is not divided by the damping alone, as the released code does: its gradient is zero, and it gets no step."""
    made = problem(fresh=True)
    assert all("lora_B" in name for name in LIBU()._ascend(made, State()).direction)
    released = LIBUAsPublished().descend(made, State()).direction
    assert all(not part.any() for name, part in released.items() if "lora_A" in name)


def batch_mean_gradient(made: Problem, windows: Any) -> dict[str, torch.Tensor]:
    """Of the mean over all targets of the windows, each run without padding."""
    total, count = torch.zeros(()).double(), 0
    for window in windows:
        logits = made.model(input_ids=torch.tensor([window.ids]), use_cache=False).logits[0]
        places = torch.tensor([place for place, counts in enumerate(window.counted) if counts])
        total = total + cross_entropy(logits[places - 1], torch.tensor(window.ids)[places], reduction="sum")
        count += len(places)
    found = torch.autograd.grad(total / count, list(made.movable.values()))
    return dict(zip(made.movable, found, strict=True))


@pytest.mark.parametrize("size", [1, 2])
def test_their_fisher_is_the_mean_of_squared_batch_means(size: int) -> None:
    made = problem()
    windows = made.splits["curvature"].windows
    batches = [batch_mean_gradient(made, windows[start : start + size]) for start in range(0, len(windows), size)]
    expected = {name: sum(batch[name].square() for batch in batches) / len(batches) for name in made.movable}
    found = squared_batch_means(made, made.splits["curvature"], size)
    assert same(found, expected)  # type: ignore[arg-type]
    whole = {name: part.square() for name, part in batch_mean_gradient(made, windows).items()}
    assert not same(found, whole, 0.01)


def updates(rule: Rule, settings: SophiaSettings, draw: float) -> bool:
    """Whether a tensor whose chance fell on `draw` has its curvature updated from the step's gradient."""
    averages = {"momentum": torch.zeros(1), "curvature": torch.zeros(1)}
    rule.observe(averages, torch.ones(1), settings, draw)
    assert float(averages["momentum"]) == pytest.approx(0.1)
    return bool(averages["curvature"].any())


def test_the_set_ups() -> None:
    """Learning rate, batch, accumulation, epochs, damping, chance, gamma; their source is on the page."""
    assert SETUPS[3] == Setup(2e-5, 4, 8, 4, 1e-3, 0.06, 1.2)
    assert SETUPS[2] == Setup(3e-5, 1, 6, 5, 8e-4, 0.08, 1.15)
    assert (SETUPS[1].learning_rate, SETUPS[1].accumulation) == (4e-5, 4)
    for number, setup in SETUPS.items():
        first, second = LIBUAsPublished(setup=number).phases(problem(), State())  # type: ignore[arg-type]
        assert isinstance(first, Propose) and first.step == Fixed(step=setup.learning_rate)
        assert isinstance(second, Descend) and isinstance(second.optimiser, WithSophia)
        assert second.draws == {"forget": setup.batch * setup.accumulation}  # and no retain rows
        assert (second.passes, second.rate, second.aims) == (setup.epochs, setup.learning_rate, False)
        used = second.optimiser.settings
        assert (used.gamma, used.betas, used.eps, used.clip) == (setup.gamma, (0.9, 0.999), 1e-8, float("inf"))
        assert second.optimiser.estimate is None  # no curvature but that of the training gradient
        assert updates(second.optimiser.rule, used, 0.99 * setup.chance)
        assert not updates(second.optimiser.rule, used, setup.chance)


def test_cycles_of_the_first_phase_share_its_budget() -> None:
    phases = flattened(LIBU(cycles=4, budget=0.2).phases(problem(), State()))
    rules = [phase.step for phase in phases if isinstance(phase, Propose)]
    assert [rule.budget for rule in rules if isinstance(rule, RetainBudget)] == pytest.approx([0.05, 0.1, 0.15, 0.2])
    assert [phase.name for phase in phases] == ["influence"] * 4 + ["sophia"]
    last = flattened(LIBU(optimiser="adamw").phases(problem(), State()))[-1]
    assert isinstance(last, Descend) and (last.name, last.optimiser) == ("adamw", Plain())
    assert isinstance(phases[-1], Descend) and phases[-1].optimiser == WithSophia()


def test_both_readings_of_fisher_forgetting() -> None:
    """The budget counts from the original: what a phase may use up grows to the whole of it."""

    def shares(reading: str) -> list[tuple[str, float]]:
        method = FisherForgetting(reading=reading, cycles=2, budget=0.1)  # type: ignore[arg-type]
        phases = flattened(method.phases(problem(), State()))
        return [(phase.name, rule.budget) for phase in phases if isinstance(rule := phase.step, RetainBudget)]  # type: ignore[union-attr]

    assert shares("noise") == [("noise", 0.05), ("noise", 0.1)]
    names, budgets = zip(*shares("noisy_newton"), strict=True)
    assert names == ("removal", "noise") * 2
    assert budgets == pytest.approx((0.025, 0.05, 0.075, 0.1))
