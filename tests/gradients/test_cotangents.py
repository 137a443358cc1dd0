"""Label sources: the covariance of each is what its name says, and wrong noise is told apart."""

import torch

from expunge.gradients.cotangents import (
    exact_cotangent,
    keyed_noise,
    noise_cotangent,
    sampled_labels,
    turn_into_label_cotangent,
    turn_into_noise_cotangent,
)
from expunge.gradients.per_example import Squares, measure
from oracles import row_gradients, same
from problems import VOCABULARY, model_of, problem_of, split_of

LOGITS = torch.tensor([[0.3, -1.2, 2.0, 0.1, -0.4], [4.0, 0.0, 0.0, -1.0, 0.5]]).double()


def covariance(p: torch.Tensor) -> torch.Tensor:
    return torch.diag(p) - torch.outer(p, p)


def test_noise_over_a_basis_sums_to_the_covariance_exactly() -> None:
    """With e = e_1 ... e_V in turn, sum_v c_v c_v' = diag(p) - p p', since c is linear in e."""
    for row in LOGITS:
        turns = noise_cotangent(row.repeat(5, 1), torch.eye(5).double())
        assert torch.allclose(turns.T @ turns, covariance(row.softmax(0)), atol=1e-14)
        without = row.softmax(0).sqrt() * torch.eye(5).double()  # the -p term is missing: diag(p) remains
        assert (without.T @ without - covariance(row.softmax(0))).abs().max() > 0.05


def test_exact_cotangents_sum_to_the_covariance() -> None:
    chosen = torch.tensor([True, False])
    turns = torch.stack([exact_cotangent(LOGITS, chosen, entry) for entry in range(5)])
    assert torch.allclose(turns[:, 0].T @ turns[:, 0], covariance(LOGITS[0].softmax(0)), atol=1e-14)
    assert not turns[:, 1].any()


def test_label_cotangent_is_the_gradient_of_the_loss() -> None:
    logits = LOGITS.clone().requires_grad_(True)
    labels = torch.tensor([2, 4])
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    assert logits.grad is not None
    turned = turn_into_label_cotangent(LOGITS.clone(), labels, [(0, 1), (1, 1)])
    assert torch.allclose(turned, logits.grad)


def test_overwriting_gives_the_same_noise_cotangents() -> None:
    keys = [(4, 1), (6, 1)]
    noise = keyed_noise(3, keys, 5, torch.device("cpu")).double()
    assert torch.allclose(turn_into_noise_cotangent(LOGITS.clone(), 3, keys), noise_cotangent(LOGITS, noise))


def test_noise_and_labels_are_keyed_by_window() -> None:
    """What a window draws does not depend on its neighbours, and differs by window, target and seed."""
    one = keyed_noise(3, [(7, 2), (9, 1)], 5, torch.device("cpu"))
    other = keyed_noise(3, [(9, 1), (7, 2)], 5, torch.device("cpu"))
    assert torch.equal(one[:2], other[1:]) and torch.equal(one[2], other[0])
    assert not torch.equal(one[0], one[1]) and not torch.equal(one[0], one[2])
    assert not torch.equal(keyed_noise(4, [(7, 2)], 5, torch.device("cpu")), one[:2])
    flat = torch.zeros(64, 50)
    drawn = sampled_labels(flat, 1, [(0, 32), (1, 32)])
    assert torch.equal(sampled_labels(flat[:32], 1, [(1, 32)]), drawn[32:]) and len(drawn.unique()) > 20


def gauss_newton_diagonal(problem, split):  # type: ignore[no-untyped-def]
    """Sum over targets of J_t' (diag p - p p') J_t, its diagonal, from dense Jacobians of every target's logits."""
    found = {name: torch.zeros_like(tensor) for name, tensor in problem.movable.items()}
    for window in split.windows:
        logits = problem.model(input_ids=torch.tensor([window.ids]), use_cache=False).logits[0]
        for place, counts in enumerate(window.counted):
            if not counts:
                continue
            rows = [
                torch.autograd.grad(value, list(problem.movable.values()), retain_graph=True, allow_unused=True)
                for value in logits[place - 1]
            ]
            p = logits[place - 1].detach().softmax(0)
            for index, name in enumerate(problem.movable):
                jacobian = torch.stack([row[index].flatten() for row in rows])
                inner = covariance(p) @ jacobian
                found[name] += (jacobian * inner).sum(0).view_as(found[name])
    return found


def test_exact_labels_give_the_gauss_newton_diagonal() -> None:
    problem = problem_of(model_of("llama", tied=False))
    problem.movable = {name: problem.movable[name] for name in list(problem.movable)[-3:]}
    split = split_of("retain", (1, 2))
    found = measure(problem, split, Squares, "exact").tensors
    expected = gauss_newton_diagonal(problem, split)
    assert same(found, expected)
    empirical = {name: rows.square().sum(0) for name, rows in row_gradients(problem, split).items()}
    assert not same(empirical, expected, 0.1)


def test_noise_is_unbiased_and_shared_noise_is_not() -> None:
    """Means over 400 passes lie within their errors of the exact diagonal; one noise for all tokens does not."""
    problem = problem_of(model_of("gpt2", tied=False))
    problem.movable = {"lm_head.weight": problem.movable["lm_head.weight"]}
    split = split_of("retain", (1, 1, 2))
    exact = gauss_newton_diagonal(problem, split)["lm_head.weight"]
    passes = 400
    found = measure(problem, split, Squares, "noise", passes=passes).tensors["lm_head.weight"] / passes
    error = exact * (2 / passes) ** 0.5  # of a mean of squared normals; rows only make it smaller
    assert float(((found - exact).abs() > 4 * error).double().mean()) < 0.01
    shared = torch.zeros_like(exact)
    random = torch.Generator().manual_seed(0)
    for _ in range(passes):
        noise = torch.randn(VOCABULARY, generator=random).double()
        gradients = torch.zeros(3, *exact.shape).double()
        for window in split.windows:
            logits = problem.model(input_ids=torch.tensor([window.ids]), use_cache=False).logits[0]
            before = torch.tensor([place for place, counts in enumerate(window.counted) if counts]) - 1
            cotangent = noise_cotangent(logits[before].detach(), noise.repeat(len(before), 1))
            (gradient,) = torch.autograd.grad(logits[before], list(problem.movable.values()), cotangent)
            gradients[window.row] += gradient
        shared += gradients.square().sum(0) / passes
    assert float(((shared - exact).abs() > 4 * error).double().mean()) > 0.3
