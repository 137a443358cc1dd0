"""Estimates of the Gauss-Newton diagonal against the explicit matrix, in float64, on a model of eight tokens."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.data.batches import Batch
from expunge.gradients import bartlett
from expunge.gradients.bartlett import estimate
from expunge.gradients.cotangents import noise_cotangent
from expunge.problem import Problem
from problems import problem_of

VOCABULARY, WIDTH = 8, 3
DRAWS = 600


class Toy(nn.Module):
    """Logits from the mean of the embeddings so far, through a shared matrix: gradients agree across positions."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embedding = nn.Parameter(torch.randn(VOCABULARY, WIDTH, generator=generator, dtype=torch.float64))
        self.head = nn.Parameter(torch.randn(WIDTH, VOCABULARY, generator=generator, dtype=torch.float64))

    def forward(self, input_ids: Tensor, attention_mask: Tensor, use_cache: bool) -> Any:
        kept = self.embedding[input_ids] * attention_mask[:, :, None]
        means = kept.cumsum(dim=1) / attention_mask.cumsum(dim=1)[:, :, None]
        return SimpleNamespace(logits=means @ self.head)


def problem() -> Problem:
    return problem_of(Toy(), {})


def batch(rows: list[list[int]], weight: float = 1.0) -> Batch:
    """Padded rows; the first two tokens are a prompt, the rest are targets."""
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    attention = torch.tensor([[place < len(row) for place in range(width)] for row in rows])
    counted = attention & (torch.arange(width) >= 2)
    place = torch.arange(len(rows))
    return Batch("retain", ids, attention, counted, place, place, weight)


BATCHES = [batch([[1, 2, 3, 3, 4], [5, 6, 1, 2]]), batch([[7, 0, 4, 4]])]


def oracle(made: Problem) -> Tensor:
    """diag(1/N sum_t J_t' (diag p - pp') J_t) from the explicit Jacobian, all parameters in one vector."""
    names, values = list(made.movable), tuple(made.movable.values())
    total, targets = torch.zeros(sum(value.numel() for value in values), dtype=torch.float64), 0
    for part in BATCHES:

        def logits(*parameters: Tensor, part: Batch = part) -> Tensor:
            arguments = {"input_ids": part.ids, "attention_mask": part.attention.long(), "use_cache": False}
            out = torch.func.functional_call(made.model, dict(zip(names, parameters, strict=True)), (), arguments)
            return out.logits[:, :-1][part.counted[:, 1:]]

        jacobians = torch.autograd.functional.jacobian(logits, values)
        jacobian = torch.cat([each.flatten(2) for each in jacobians], dim=2)
        p = logits(*values).detach().softmax(dim=1)
        matrix = torch.diag_embed(p) - p[:, :, None] * p[:, None, :]
        total += torch.einsum("nvp,nvw,nwp->p", jacobian, matrix, jacobian)
        targets += len(p)
    return total / targets


def deviations(made: Problem, estimator: Any, draws: int = DRAWS) -> Tensor:
    """(mean over draws - oracle) / standard error, coordinate by coordinate."""
    generator = torch.Generator().manual_seed(1)
    found = torch.stack(
        [
            torch.cat([part.flatten() for part in estimate(made, BATCHES, generator, estimator).diagonal])
            for _ in range(draws)
        ]
    )
    error = found.std(dim=0) / draws**0.5
    return (found.mean(dim=0) - oracle(made)) / error.clamp(min=1e-9)


@pytest.mark.parametrize("estimator", ["noise", "bartlett"])
def test_the_mean_is_the_gauss_newton_diagonal(estimator: str) -> None:
    assert float(deviations(problem(), estimator).abs().max()) < 4.5  # of 48 coordinates, normal


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda logits, noise: noise_cotangent(logits, noise[:1].expand_as(noise)), id="shared-noise"),
        pytest.param(lambda logits, noise: logits.softmax(dim=1).sqrt() * noise, id="no-mean-term"),
        pytest.param(lambda logits, noise: noise_cotangent(logits, noise) / len(noise) ** 0.5, id="mean-not-sum"),
    ],
)
def test_broken_cotangents_are_far_off(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bartlett, "noise_cotangent", broken)
    assert float(deviations(problem(), "noise", draws=500).abs().max()) > 9


def test_labels_of_the_data_are_far_off() -> None:
    made = problem()
    generator, expected = torch.Generator().manual_seed(1), oracle(made)

    def error(estimator: Any, draws: int) -> float:
        """Sum of absolute errors of the mean over draws, relative to the sum of the diagonal."""
        found = [estimate(made, BATCHES, generator, estimator).diagonal for _ in range(draws)]
        mean = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in found]).mean(dim=0)
        return float((mean - expected).abs().sum() / expected.sum())

    assert error("noise", 200) < 0.2  # a draw's relative error is about 1.4: 0.1 for 200
    assert error("squared", 1) == error("squared", 2) > 0.8  # no draws, so nothing averages out


def test_labels_of_the_data_give_targets_times_the_squared_mean_gradient() -> None:
    made = problem()
    logits = made.model(BATCHES[0].ids, BATCHES[0].attention.long(), False).logits[:, :-1][BATCHES[0].counted[:, 1:]]
    mean = nn.functional.cross_entropy(logits, BATCHES[0].ids[BATCHES[0].counted])
    gradients = torch.autograd.grad(mean, list(made.movable.values()))
    found = estimate(made, BATCHES[:1], torch.Generator(), "squared")
    assert (found.targets, found.tokens) == (5, 9)
    for one, gradient in zip(found.diagonal, gradients, strict=True):
        assert torch.allclose(one, 5 * gradient**2, rtol=1e-5)


def test_nothing_else_is_touched() -> None:
    made = problem()
    for parameter in made.movable.values():
        parameter.grad = torch.ones_like(parameter)
    weights = [parameter.detach().clone() for parameter in made.movable.values()]
    before = torch.get_rng_state()
    first = estimate(made, BATCHES, torch.Generator().manual_seed(3), "noise")
    again = estimate(made, BATCHES, torch.Generator().manual_seed(3), "noise")
    other = estimate(made, BATCHES, torch.Generator().manual_seed(4), "noise")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(bool((parameter.grad == 1).all()) for parameter in made.movable.values())
    assert all(map(torch.equal, made.movable.values(), weights))
    assert all(map(torch.equal, first.diagonal, again.diagonal))
    assert not any(map(torch.equal, first.diagonal, other.diagonal))


def test_the_noise_cotangent_over_unit_vectors_gives_the_softmax_covariance() -> None:
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.0]], dtype=torch.float64)
    p = logits.softmax(dim=1)[0]
    columns = [noise_cotangent(logits, unit[None])[0] for unit in torch.eye(4, dtype=torch.float64)]
    covariance = torch.diag(p) - p[:, None] * p[None, :]
    found = sum(column[:, None] * column[None, :] for column in columns)
    assert torch.allclose(found, covariance, atol=1e-14)  # type: ignore[arg-type]
    assert not torch.allclose(torch.diag(p), covariance, atol=1e-3)  # what the missing mean term would give
