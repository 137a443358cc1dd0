"""Estimates of the Gauss-Newton diagonal against the explicit matrix, in float64, on a model of eight tokens."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expunge.data.batches import Batch
from expunge.gradients import estimates
from expunge.gradients.cotangents import noise_cotangent
from expunge.gradients.estimates import NOISE, SAMPLED, Source, estimate
from expunge.problem import Problem
from oracles import token_nll
from problems import problem_of

VOCABULARY, WIDTH = 8, 3
DRAWS = 600
SOURCES = {"noise": NOISE, "sampled": SAMPLED}
DATA = Source(  # broken: the labels of the data, which released code takes for curvature
    lambda logits, batch, generator: token_nll(logits, batch).sum(), lambda shape, dtype, generator: None
)


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


def deviations(made: Problem, source: Source, draws: int = DRAWS) -> Tensor:
    """(mean over draws - oracle) / standard error, coordinate by coordinate."""
    generator = torch.Generator().manual_seed(1)
    found = torch.stack(
        [
            torch.cat([part.flatten() for part in estimate(made, BATCHES, generator, source).diagonal])
            for _ in range(draws)
        ]
    )
    error = found.std(dim=0) / draws**0.5
    return (found.mean(dim=0) - oracle(made)) / error.clamp(min=1e-9)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_the_mean_is_the_gauss_newton_diagonal(source: Source) -> None:
    assert float(deviations(problem(), source).abs().max()) < 4.5  # of 48 coordinates, normal


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(lambda logits, noise: noise_cotangent(logits, noise[:1].expand_as(noise)), id="shared-noise"),
        pytest.param(lambda logits, noise: logits.softmax(dim=1).sqrt() * noise, id="no-mean-term"),
        pytest.param(lambda logits, noise: noise_cotangent(logits, noise) / len(noise) ** 0.5, id="mean-not-sum"),
    ],
)
def test_broken_cotangents_are_far_off(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimates, "noise_cotangent", broken)
    assert float(deviations(problem(), NOISE, draws=500).abs().max()) > 9


def test_labels_of_the_data_are_far_off() -> None:
    made = problem()
    generator, expected = torch.Generator().manual_seed(1), oracle(made)

    def error(source: Source, draws: int) -> float:
        """Sum of absolute errors of the mean over draws, relative to the sum of the diagonal."""
        found = [estimate(made, BATCHES, generator, source).diagonal for _ in range(draws)]
        mean = torch.stack([torch.cat([part.flatten() for part in parts]) for parts in found]).mean(dim=0)
        return float((mean - expected).abs().sum() / expected.sum())

    assert error(NOISE, 200) < 0.2  # a draw's relative error is about 1.4: 0.1 for 200
    assert error(DATA, 1) == error(DATA, 2) > 0.8  # no draws, so nothing averages out


def test_a_batch_gives_its_targets_times_the_squared_mean_gradient() -> None:
    """S∘S / N is N g∘g with g the gradient of the mean loss, as the paper has it; by labels that are known."""
    made = problem()
    logits = made.model(BATCHES[0].ids, BATCHES[0].attention.long(), False).logits[:, :-1][BATCHES[0].counted[:, 1:]]
    mean = nn.functional.cross_entropy(logits, BATCHES[0].ids[BATCHES[0].counted])
    gradients = torch.autograd.grad(mean, list(made.movable.values()))
    found = estimate(made, BATCHES[:1], torch.Generator(), DATA)
    assert (found.targets, found.tokens) == (5, 9)
    for one, gradient in zip(found.diagonal, gradients, strict=True):
        assert torch.allclose(one, 5 * gradient**2, rtol=1e-5)
        assert not torch.allclose(one, gradient**2, rtol=1e-5)  # broken: a mean squared is not the matrix's share


def test_sampled_labels_stand_in_the_place_of_those_of_the_data() -> None:
    """Drawn from p with the same generator, batch by batch, and squared as any labels are."""
    made, generator = problem(), torch.Generator().manual_seed(5)
    expected = [torch.zeros_like(parameter) for parameter in made.movable.values()]
    for one in BATCHES:
        logits = made.model(one.ids, one.attention.long(), False).logits[:, :-1][one.counted[:, 1:]]
        labels = torch.multinomial(logits.detach().softmax(dim=1), 1, generator=generator)[:, 0]
        loss = nn.functional.cross_entropy(logits, labels, reduction="sum")
        for total, gradient in zip(expected, torch.autograd.grad(loss, list(made.movable.values())), strict=True):
            total += gradient**2 / 7  # targets of both batches
    found = estimate(made, BATCHES, torch.Generator().manual_seed(5), SAMPLED)
    assert found.targets == 7 and all(map(torch.allclose, found.diagonal, expected))
    of_data = estimate(made, BATCHES, torch.Generator(), DATA).diagonal
    assert not any(map(torch.allclose, of_data, expected))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SOURCES)
def test_skipping_a_batch_draws_what_taking_it_draws(name: str, dtype: torch.dtype) -> None:
    """A process that leaves a batch to another must go on with the same chance; nothing skipped would not."""
    source, logits = SOURCES[name], torch.randn(5, VOCABULARY, dtype=dtype)

    def next_after(draw: Any) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        draw(generator)
        return torch.rand(4, generator=generator)

    taken = next_after(lambda generator: source.surrogate(logits, BATCHES[0], generator))
    assert torch.equal(taken, next_after(lambda generator: source.skip((5, VOCABULARY), dtype, generator)))
    assert not torch.equal(taken, next_after(lambda generator: source.skip((4, VOCABULARY), dtype, generator)))
    assert not torch.equal(taken, next_after(lambda generator: None))


def test_nothing_else_is_touched() -> None:
    made = problem()
    for parameter in made.movable.values():
        parameter.grad = torch.ones_like(parameter)
    weights = [parameter.detach().clone() for parameter in made.movable.values()]
    before = torch.get_rng_state()
    first = estimate(made, BATCHES, torch.Generator().manual_seed(3), NOISE)
    again = estimate(made, BATCHES, torch.Generator().manual_seed(3), NOISE)
    other = estimate(made, BATCHES, torch.Generator().manual_seed(4), NOISE)
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
