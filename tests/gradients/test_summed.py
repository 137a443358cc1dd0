"""Mean gradients by autograd: over rows, over tokens, of a divergence; in float64 against one row at a time."""

import torch

from expunge.data.batches import collate
from expunge.gradients.summed import divergence_gradient, mean_gradient
from expunge.methods.libu_as_published import squared_batch_means
from expunge.model.losses import target_logits
from expunge.reference.cache import keep_distributions
from oracles import row_gradients, same, token_nll
from problems import model_of, problem_of

COUNTS = (1, 1, 3, 1, 2)


def test_means_over_rows_and_over_tokens() -> None:
    problem = problem_of(model_of("llama"), {"retain": COUNTS})
    split = problem.splits["retain"]
    rows = row_gradients(problem, split)
    targets = torch.zeros(len(COUNTS)).double()
    for window in split.windows:
        targets[window.row] += window.targets
    per_row = {name: torch.einsum("n,n...->...", 1 / targets, part) / len(COUNTS) for name, part in rows.items()}
    per_token = {name: part.sum(0) / targets.sum() for name, part in rows.items()}
    assert same(mean_gradient(problem, split, "row"), per_row, 1e-6)
    assert same(mean_gradient(problem, split, "token"), per_token, 1e-6)
    assert not same(per_row, per_token, 0.05)
    some = {name: torch.einsum("n,n...->...", 1 / targets[[0, 3]], part[[0, 3]]) / 2 for name, part in rows.items()}
    assert same(mean_gradient(problem, split, "row", [0, 3]), some, 1e-6)


def test_divergence_vanishes_at_the_original_and_points_away_from_it() -> None:
    problem = problem_of(model_of("llama"), {"retain": COUNTS, "curvature": (1, 1)})
    splits = [(problem.splits[name], keep_distributions(problem, problem.splits[name])) for name in problem.splits]
    at_start = divergence_gradient(problem, splits)
    assert max(float(part.abs().max()) for part in at_start.values()) < 1e-6
    before, moved = problem.snapshot(), {}
    with torch.no_grad():
        for name, tensor in problem.movable.items():
            moved[name] = 0.01 * torch.randn_like(tensor)
            tensor += moved[name]
    found = divergence_gradient(problem, splits)
    slope = sum(float((found[name] * moved[name]).sum()) for name in moved)
    total, count = 0.0, 0
    for split, kept in splits:
        for index, window in enumerate(split.windows):
            batch = collate(split.name, split.windows, [index])
            with torch.no_grad():
                q = target_logits(problem.model, batch).log_softmax(1)
            p, _ = kept.of(batch)
            ids = kept.of(batch)[1]
            total, count = total + float((p.exp() * (p - q.gather(1, ids))).sum()), count + window.targets
    assert abs(slope / (2 * total / count) - 1) < 0.15  # of a quadratic: the slope along d is twice its value
    problem.restore(before)


def test_squared_batch_means_square_the_mean_of_each_batch() -> None:
    problem = problem_of(model_of("llama"), {"retain": (1,) * 5})
    split = problem.splits["retain"]
    expected: dict[str, torch.Tensor] = {}
    for chosen in ((0, 1), (2, 3), (4,)):
        batch = collate("retain", split.windows, chosen)
        loss = token_nll(target_logits(problem.model, batch), batch).mean()
        for name, gradient in zip(
            problem.movable, torch.autograd.grad(loss, list(problem.movable.values())), strict=True
        ):
            expected[name] = expected.get(name, torch.zeros_like(gradient)) + gradient.square() / 3
    found = squared_batch_means(problem, split, 2)
    assert same(found, expected, 1e-9)
    assert not same(squared_batch_means(problem, split, 5), expected, 0.05)
