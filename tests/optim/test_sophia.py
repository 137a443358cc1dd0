"""Sophia against arithmetic in comments. Every broken variant must miss the expected values."""

from collections.abc import Sequence
from copy import deepcopy as copy_of
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.errors import InputError
from expunge.methods.libu_as_published import released
from expunge.optim import sophia
from expunge.optim.sophia import PAPER, Averages, Ratio, Rule, Sophia, SophiaSettings

RATE = 0.1
GRADIENTS = ([1.0, 1.0], [1.0, -1.0], [2.0, 1.0])
ESTIMATES = {1: [1.0, 0.1], 3: [4.0, 0.4]}
SETTINGS = SophiaSettings(gamma=1.0, betas=(0.5, 0.5), eps=1e-12)
PUBLISHED = SophiaSettings(gamma=1.2, betas=(0.9, 0.999), eps=1e-8, clip=float("inf"))  # of LIBU's third set-up

# b1 = b2 = 0.5, gamma = 1, lr = 0.1, theta = (0, 0); clip(x) = min(max(x, -1), 1)
# step 1: m = (0.5, 0.5); h = (1, 0.1), the first estimate whole; m/h = (0.5, 5) -> (0.5, 1)
#         theta = (-0.05, -0.1)
# step 2: m = 0.5 (0.5, 0.5) + 0.5 (1, -1) = (0.75, -0.25); h stays; m/h = (0.75, -2.5) -> (0.75, -1)
#         theta = (-0.125, 0)
# step 3: m = 0.5 (0.75, -0.25) + 0.5 (2, 1) = (1.375, 0.375); the second estimate has weight 0.5 / (1 - 0.25) = 2/3:
#         h = (1 + 2/3 * 3, 0.1 + 2/3 * 0.3) = (3, 0.3); m/h = (0.4583333, 1.25) -> (0.4583333, 1)
#         theta = (-0.1708333, -0.1)
EXPECTED = ([-0.05, -0.1], [-0.125, 0.0], [-0.1708333333, -0.1])
RELEASED = released(0.06)


def run(optimiser: Sophia, parameter: Tensor, gradients: Sequence[Sequence[float]] = GRADIENTS) -> list[Tensor]:
    """Parameter after each step, with the estimates of `ESTIMATES` taken before their steps."""
    path = []
    for step, gradient in enumerate(gradients, start=1):
        if step in ESTIMATES and optimiser.rule is not RELEASED:
            optimiser.refresh([torch.tensor(ESTIMATES[step], dtype=torch.float64)])
        parameter.grad = torch.tensor(gradient, dtype=torch.float64)
        optimiser.step()
        path.append(parameter.detach().clone())
    return path


def start(settings: SophiaSettings = SETTINGS, rule: Rule = PAPER) -> tuple[Sophia, Tensor]:
    parameter = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    return Sophia([parameter], settings, rule, lr=RATE), parameter


def matches(path: Sequence[Tensor]) -> bool:
    expected = torch.tensor(EXPECTED, dtype=torch.float64)
    return bool(torch.allclose(torch.stack(list(path)), expected, atol=1e-9, rtol=0))


def test_three_steps_equal_hand_arithmetic() -> None:
    assert matches(run(*start()))


def twice(averages: Averages, gradient: Tensor, settings: SophiaSettings, draw: float) -> None:
    """Momentum updated twice a step."""
    PAPER.observe(averages, gradient, settings, draw)
    PAPER.observe(averages, gradient, settings, draw)


def every_step(averages: Averages, gradient: Tensor, settings: SophiaSettings, draw: float) -> None:
    """Curvature updated from the training gradient every step."""
    PAPER.observe(averages, gradient, settings, draw)
    averages["curvature"].lerp_(gradient**2, 0.5)


class Unclipped(Ratio):
    """A quotient that nothing clips."""

    def step(self) -> Tensor:
        return self.momentum / self.bound


def clipped_first(averages: Averages, gamma: float, steps: int, settings: SophiaSettings) -> Ratio:
    """Momentum clipped before the division."""
    ratio = PAPER.ratio(averages, gamma, steps, settings)
    return Unclipped(ratio.momentum.clamp(-1, 1), ratio.bound)


def corrected(averages: Averages, gamma: float, steps: int, settings: SophiaSettings) -> Ratio:
    """Momentum divided by 1 - b1^t, as Adam has it."""
    ratio = PAPER.ratio(averages, gamma, steps, settings)
    return Ratio(ratio.momentum / (1 - settings.betas[0] ** steps), ratio.bound)


def without_gamma(averages: Averages, gamma: float, steps: int, settings: SophiaSettings) -> Ratio:
    """Gamma left out of the denominator."""
    return PAPER.ratio(averages, 1.0, steps, settings)


@pytest.mark.parametrize(
    "broken",
    [
        replace(PAPER, observe=twice),
        replace(PAPER, observe=every_step),
        replace(PAPER, ratio=clipped_first),
        replace(PAPER, ratio=corrected),
    ],
    ids=["twice", "every step", "clipped first", "corrected"],
)
def test_broken_rules_miss_the_arithmetic(broken: Rule) -> None:
    assert not matches(run(*start(rule=broken)))


def test_gamma_scales_the_curvature() -> None:
    # gamma = 2 and half the curvature are the same; without gamma they are not
    halved = {step: [value / 2 for value in values] for step, values in ESTIMATES.items()}
    settings = SophiaSettings(gamma=2.0, betas=(0.5, 0.5))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ESTIMATES, 1, halved[1])
        patch.setitem(ESTIMATES, 3, halved[3])
        assert matches(run(*start(settings)))
        assert not matches(run(*start(settings, replace(PAPER, ratio=without_gamma))))


def test_no_curvature_means_a_sign_step_and_weight_decay_is_decoupled() -> None:
    parameter = torch.tensor([1.0, -2.0, 3.0], dtype=torch.float64, requires_grad=True)
    optimiser = Sophia([parameter], SophiaSettings(weight_decay=0.5), lr=RATE)
    parameter.grad = torch.tensor([1e-5, -7.0, 0.0], dtype=torch.float64)
    optimiser.step()
    # theta * (1 - 0.1 * 0.5) - 0.1 * sign(g)
    assert parameter.tolist() == pytest.approx([0.95 - 0.1, -1.9 + 0.1, 2.85], abs=1e-12)


def test_a_rule_is_given_the_draws_of_its_seed() -> None:
    """One number of [0, 1) for each parameter in each step, the same for the same seed."""
    seen: list[float] = []

    def listening(averages: Averages, gradient: Tensor, settings: SophiaSettings, draw: float) -> None:
        seen.append(draw)

    def draws(seed: int) -> list[float]:
        seen.clear()
        parameters = [torch.zeros(1, requires_grad=True) for _ in range(3)]
        optimiser = Sophia(parameters, SETTINGS, replace(PAPER, observe=listening), lr=RATE, seed=seed)
        for parameter in parameters:
            parameter.grad = torch.ones(1)
        for _ in range(2):
            optimiser.step()
        return list(seen)

    first, again, other = draws(5), draws(5), draws(6)
    assert first == again and len(set(first)) == 6 and all(0 <= draw < 1 for draw in first)
    assert not set(first) & set(other)


def test_the_released_libu_updates_some_tensors_and_corrects_both_averages() -> None:
    # first step, g = 4: m' = 4 in any case. Where the chance fell: h' = 16, bound = 1.2 * 16 = 19.2, step 4 / 19.2;
    # elsewhere h = 0, bound = 1e-8, step 1.
    parameters = [torch.zeros(1, dtype=torch.float64, requires_grad=True) for _ in range(2000)]
    optimiser = Sophia(parameters, PUBLISHED, RELEASED, lr=RATE, seed=5)
    for parameter in parameters:
        parameter.grad = torch.full((1,), 4.0, dtype=torch.float64)
    optimiser.step()
    moved = torch.cat([parameter.detach() for parameter in parameters])
    updated = torch.isclose(moved, torch.tensor(-RATE * 4 / 19.2, dtype=torch.float64))
    assert torch.isclose(moved[~updated], torch.tensor(-RATE, dtype=torch.float64)).all()
    assert 0.06 * 2000 - 4 * 10.6 < int(updated.sum()) < 0.06 * 2000 + 4 * 10.6  # sd sqrt(2000 * 0.06 * 0.94) = 10.6


def many(settings: SophiaSettings, count: int = 1000) -> tuple[Sophia, Tensor]:
    """One step with |m| / h = 0.1 * (1, 2, ..., count), and as many coordinates without gradient."""
    parameter = torch.zeros(2 * count, dtype=torch.float64, requires_grad=True)
    optimiser = Sophia([parameter], settings, lr=RATE)
    optimiser.refresh([torch.ones_like(parameter)])
    parameter.grad = torch.cat([torch.arange(1, count + 1), torch.zeros(count)]).to(torch.float64)
    optimiser.step()
    return optimiser, parameter


def test_gamma_is_set_by_the_share_of_coordinates_with_momentum() -> None:
    # 300 of the 1000 ratios lie below the 301st, 30.1; coordinates without momentum do not count
    optimiser, _ = many(SophiaSettings(unclipped=0.3))
    assert optimiser.gamma == pytest.approx(30.1)
    assert optimiser.unclipped_share() == pytest.approx(0.3)
    broken = torch.cat([torch.arange(1, 1001) * 0.1, torch.zeros(1000)]).quantile(0.3)  # counts those without momentum
    assert float(broken) != pytest.approx(30.1, rel=0.5)


def test_gamma_is_set_at_two_refreshes_and_then_only_when_asked() -> None:
    optimiser, parameter = many(SophiaSettings(unclipped=0.3))
    found = []
    for regauge in (False, False, True):
        optimiser.refresh([torch.ones_like(parameter)], regauge)
        assert parameter.grad is not None
        parameter.grad *= 2
        optimiser.step()
        found.append(optimiser.gamma)
    assert found[0] == found[1] != found[2] and found[0] != pytest.approx(30.1)
    given, _ = many(SophiaSettings(gamma=2.0))
    given.refresh([torch.ones_like(parameter)], regauge=True)
    given.step()
    assert given.gamma == 2.0


def test_gamma_stays_unset_without_curvature_and_serves_those_that_have_it() -> None:
    parameter = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    optimiser = Sophia([parameter], SophiaSettings(unclipped=0.3), lr=RATE)
    parameter.grad = torch.ones(10, dtype=torch.float64)
    optimiser.refresh([torch.zeros(10, dtype=torch.float64)])
    optimiser.step()
    assert optimiser.gamma is None and parameter.tolist() == [-RATE] * 10
    curved = torch.tensor([1.0, 2.0] + [0.0] * 8, dtype=torch.float64)  # a fifth has curvature, less than 0.3
    optimiser.refresh([curved])
    optimiser.step()
    assert optimiser.gamma is not None and optimiser.unclipped_share() == 0.1


def test_large_models_are_measured_on_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    exact, _ = many(SophiaSettings(unclipped=0.3), count=20_000)
    monkeypatch.setattr(sophia, "MOST_MEASURED", 8000)
    sampled, _ = many(SophiaSettings(unclipped=0.3), count=20_000)
    assert exact.gamma is not None and sampled.gamma is not None
    # some 4000 with momentum: sd of the share sqrt(0.3 * 0.7 / 4000) = 0.007
    assert sampled.gamma != exact.gamma and sampled.gamma == pytest.approx(exact.gamma, rel=0.1)
    assert sampled.unclipped_share() == sampled.unclipped_share() == pytest.approx(0.3, abs=1e-3)


@pytest.mark.parametrize(("settings", "rule"), [(SophiaSettings(betas=(0.5, 0.5)), PAPER), (PUBLISHED, RELEASED)])
def test_a_restored_optimiser_goes_on_as_the_first(settings: SophiaSettings, rule: Rule) -> None:
    optimiser, parameter = start(settings, rule)
    run(optimiser, parameter)
    copy = parameter.detach().clone().requires_grad_()
    restored = Sophia([copy], settings, rule, lr=RATE)
    restored.load_state_dict(copy_of(optimiser.state_dict()))
    for one, other in zip(run(optimiser, parameter), run(restored, copy), strict=True):
        assert torch.equal(one, other)
    assert restored.gamma == optimiser.gamma


@pytest.mark.parametrize(
    "wrong",
    [
        {"gamma": 0.0},
        {"unclipped": 0.7},
        {"refresh_every": 0},
        {"betas": (0.9, 1.0)},
        {"eps": 0.0},
        {"clip": 0.0},
    ],
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"Sophia: .*Give"):
        SophiaSettings(**wrong)
