"""Each method's loss against values worked out by hand (see `fixed`), and against mistakes that others made."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from expunge import registry
from expunge.data.batches import collate
from expunge.data.tokens import Window
from expunge.method import State
from expunge.reference.cache import KeptDistributions
from methods.fixed import LOG2, batch, check_only_targets, problem


def total(name: str, split: str, state: State | None = None, given: Any = None, **options: Any) -> Tensor:
    method = registry.load("methods", name)(**options)
    value: Tensor = method.loss(given or problem(), state or State(), batch(split)).total
    return value if given else value.detach()


def test_gradient_ascent() -> None:
    assert float(total("gradient_ascent", "forget")) == pytest.approx(-2.25 * LOG2)


@pytest.mark.parametrize(("split", "value"), [("forget", -2.25), ("retain", 0.5 * 2.25)])
def test_gradient_difference(split: str, value: float) -> None:
    assert float(total("gradient_difference", split, retain_weight=0.5)) == pytest.approx(value * LOG2)


def npo_state() -> State:
    """The original gives A the log-likelihood -1 and B -3, so the ratios are -3 + 1 = -2 and -3 + 3 = 0 (log 2)."""
    return State(caches={"forget": torch.tensor([-1.0, -3.0]) * LOG2})


def test_npo() -> None:
    """beta 1: 2 mean(log(1 + 1/4), log(1 + 1)) = log(5/4) + log 2 = log(5/2)."""
    value = float(total("npo", "forget", npo_state(), beta=1.0))
    assert value == pytest.approx(math.log(5 / 2), rel=1e-6)
    ratio_of_means = 2 * 0.5 * (math.log(1 + 2 ** (-1.5 + 0.5)) + math.log(2))  # per token, as some code has it
    assert abs(value - ratio_of_means) > 0.1
    of_the_batch = 2 * math.log(1 + 2**-1.0)  # of the batch's mean ratio, as other code has it
    assert abs(value - of_the_batch) > 0.1


def test_npo_with_a_retain_term() -> None:
    assert float(total("npo", "retain", npo_state(), retain_weight=2.0)) == pytest.approx(4.5 * LOG2)


def test_npo_starts_as_gradient_ascent_and_fades() -> None:
    """Its gradient in the log-likelihood is 2 r^b / (1 + r^b): 1 at the original, 2 (1/4) / (1 + 1/4) = 0.4 at 2^-4."""
    gradients = []
    for original in (-3.0, 1.0):
        nll = torch.tensor([3.0 * LOG2], requires_grad=True)
        (2 / 0.5 * torch.nn.functional.softplus(0.5 * (-nll - original * LOG2))).sum().backward()
        given = problem()
        state = State(caches={"forget": torch.full((2,), original) * LOG2})
        registry.load("methods", "npo")(beta=0.5).loss(given, state, batch("forget")).total.backward()
        place = given.model.logits.grad[1, 0, 3]  # (p - 1) / 2 = -7/16 times the gradient
        gradients.append(-float(place) * 2 / (7 / 8))
        assert float(nll.grad) == pytest.approx(gradients[-1], rel=1e-5)  # type: ignore[arg-type]
    assert gradients == pytest.approx([-1.0, -0.4], rel=1e-5)


def kl_state(distribution: Sequence[float] = (1 / 4, 1 / 4, 1 / 4, 1 / 4)) -> State:
    """The original predicts the same everywhere, all four tokens kept."""
    here = torch.tensor([distribution]).log()
    ids = torch.arange(4)[None]
    kept = KeptDistributions((here.repeat(2, 1), here), (ids.repeat(2, 1), ids))
    return State(caches={"retain": kept})


def test_kl_minimisation() -> None:
    """KL(uniform, p) = -log 4 - mean log p, in log 2: mean(3, 1, 3, 2) - 2 = 1/4 wherever we look, so 1/4 in all."""
    assert float(total("kl_minimisation", "retain", kl_state())) == pytest.approx(LOG2 / 4)
    assert float(total("kl_minimisation", "retain", kl_state(), retain_weight=3.0)) == pytest.approx(3 * LOG2 / 4)
    assert float(total("kl_minimisation", "forget")) == pytest.approx(-2.25 * LOG2)


def test_kl_is_from_the_original_to_the_current() -> None:
    """KL((1/2, 1/4, 1/8, 1/8), p) in log 2 at A: .5*2 - .25*1 + 0 - .125*1 = .625 and 0 + .25*1 - .125*1 + 0 = .125.

    At B the two are equal. Mean over A's targets .375, over windows .1875. The other way, sum p log(p / original):
    -.125*2 + .5*1 + 0 + .25*1 = .5 and 0 - .125*1 + .25*1 + 0 = .125, in all .15625.
    """
    value = float(total("kl_minimisation", "retain", kl_state((1 / 2, 1 / 4, 1 / 8, 1 / 8))))
    assert value == pytest.approx(0.1875 * LOG2)
    assert abs(value - 0.15625 * LOG2) > 0.01


@pytest.mark.parametrize(
    ("name", "split", "state"),
    [
        ("gradient_ascent", "forget", State()),
        ("gradient_difference", "retain", State()),
        ("npo", "forget", npo_state()),
        ("kl_minimisation", "forget", State()),
        ("kl_minimisation", "retain", kl_state()),
        ("loss_matching", "forget", State(targets=torch.tensor([1.0, 1.0]))),
    ],
)
def test_only_targets_count(name: str, split: str, state: State) -> None:
    check_only_targets(lambda given: total(name, split, state, given))


def test_a_mask_that_is_shifted_by_one_is_seen() -> None:
    """The check above rejects it: with the mask one place on, the noise at A's end would count."""
    shifted = (Window(0, (0, 1, 2), (False, False, True)), Window(1, (0, 3), (False, True)))
    here = registry.load("methods", "gradient_ascent")().loss(problem(), State(), collate("forget", shifted, [0, 1]))
    assert float(here.total) != pytest.approx(-2.25 * LOG2)
