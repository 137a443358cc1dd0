"""Durable rounds against dense matrices in float64: what stands in the joint solve, and where it was taken."""

from contextlib import nullcontext

import pytest
import torch
from torch import Tensor

from dense_dual import Made
from expunge.data.rows import Row
from expunge.influence import durable
from expunge.influence.durable import Constraints, Relearning, constraints, exchanges, relearned
from expunge.influence.needs import Tokens, needs
from expunge.model.losses import margins
from problems import rows_of

HOW = Relearning(steps=3, rate=0.05)


class Round:
    """Four rows of a tiny model, with weights of their targets and aims above their losses."""

    def __init__(self, kind: str = "llama") -> None:
        self.made = Made(kind)
        forget = self.made.split
        owners = torch.tensor([window.row for window in forget.windows for _ in range(window.targets)])
        weights = 0.2 + 0.8 * torch.rand(len(owners), generator=torch.Generator().manual_seed(5)).double()
        self.tokens = Tokens(owners, self.margins(), weights, len(forget.rows))
        self.made.shares = self.tokens.shares()
        self.aims = self.tokens.losses() + torch.tensor([3.0, 2.0, 4.0, 1.0]).double()

    def margins(self) -> Tensor:
        found, model = [], self.made.problem.model
        for window in self.made.split.windows:
            logits = model(input_ids=torch.tensor([window.ids]), use_cache=False).logits[0]
            targets = [t for t, counts in enumerate(window.counted) if counts]
            ids = torch.tensor([window.ids[t] for t in targets])
            found.append(margins(logits[torch.tensor(targets) - 1], ids).detach())
        return torch.cat(found)

    def constraints(self) -> Constraints:
        made = self.made
        return constraints(made.problem, made.pairs(), self.tokens, self.aims, made.whitening, 0, HOW)

    def dense(self) -> tuple[Tensor, Tensor]:
        """J and delta of all constraints, rows relearned by a loop of its own."""
        problem, tokens = self.made.problem, self.tokens
        rows, deltas = [self.made.jacobian()], [tokens.weighted(needs(tokens, self.aims))]
        before = problem.snapshot()
        for exchange in exchanges(self.made.split.rows, 0):
            self.relearn(exchange.relearned)
            there = Tokens(tokens.rows, self.margins(), tokens.weights, tokens.count)
            rows.append(self.made.jacobian()[exchange.others])
            wanted = there.weighted(0.5 * needs(there, self.aims).clamp(min=0))
            deltas.append(wanted[exchange.others])
            problem.restore(before)
        return torch.cat(rows), torch.cat(deltas)

    def relearn(self, places: list[int]) -> None:
        """AdamW on the mean over windows of their mean losses, clipped to a norm of 1."""
        problem = self.made.problem
        windows = [window for window in self.made.split.windows if window.row in places]
        optimiser = torch.optim.AdamW(problem.movable.values(), lr=HOW.rate, betas=(0.9, 0.99), weight_decay=0.0)
        for _ in range(HOW.steps):
            total = torch.zeros(()).double()
            for window in windows:
                ids = torch.tensor([window.ids])
                own = problem.model(input_ids=ids, use_cache=False).logits[0, :-1].log_softmax(dim=1)
                nll = -own.gather(1, ids[0, 1:, None])[:, 0]
                total = total + nll[torch.tensor(window.counted[1:])].mean() / len(windows)
            optimiser.zero_grad()
            total.backward()
            torch.nn.utils.clip_grad_norm_(problem.movable.values(), 1.0)
            optimiser.step()
        optimiser.zero_grad(set_to_none=True)


def agrees(one: Round, found: Constraints, dense: tuple[Tensor, Tensor]) -> bool:
    """Whether the joint solve takes the dense step (J' over rows here and there, through C)."""
    jacobian, deltas = dense
    inverse = torch.linalg.inv(one.made.metric())
    gram = jacobian @ inverse @ jacobian.T
    solve = durable_step(found)
    expected = inverse @ jacobian.T @ torch.linalg.solve(gram + 0.01 * gram.diagonal().mean() * torch.eye(8), deltas)
    step = one.made.flat(found.pairs.combined(solve))
    return torch.allclose(found.deltas, deltas, rtol=1e-8) and torch.allclose(
        step, expected, rtol=1e-6, atol=1e-7 * float(expected.abs().max())
    )


def durable_step(found: Constraints) -> Tensor:
    from expunge.influence.dual import solved

    return solved(found.pairs.gram, found.deltas, 0.01).weights


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_joint_solve_is_the_dense_one(kind: str) -> None:
    one = Round(kind)
    before = one.made.problem.snapshot()
    found = one.constraints()
    assert all(torch.equal(before[name], tensor) for name, tensor in one.made.problem.movable.items())
    assert found.pairs.count == 8
    assert agrees(one, found, one.dense())


@pytest.mark.parametrize("broken", ["at the present weights", "not put back"])
def test_broken_variants_are_seen(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gradients of the relearned round taken at the present weights; weights that are left relearned."""
    one = Round()
    dense = one.dense()
    if broken == "at the present weights":
        monkeypatch.setattr(durable, "relearned", lambda *given: nullcontext())
    else:
        monkeypatch.setattr(type(one.made.problem), "restore", lambda self, snapshot: None)
    before = one.made.problem.snapshot()
    found = one.constraints()
    put_back = all(torch.equal(before[name], tensor) for name, tensor in one.made.problem.movable.items())
    assert put_back == (broken == "at the present weights")
    assert not agrees(one, found, dense)


def test_relearning_lowers_the_loss_of_its_rows_and_is_undone_after_an_error() -> None:
    one = Round()
    problem, half = one.made.problem, one.made.split.of([0, 1], "half")
    before, then = problem.snapshot(), one.tokens.losses()
    with pytest.raises(RuntimeError, match="stop"), relearned(problem, half, HOW, 0):
        now = Tokens(one.tokens.rows, one.margins(), one.tokens.weights, 4).losses()
        assert (now[:2] < then[:2]).all()
        raise RuntimeError("stop")
    assert all(torch.equal(before[name], tensor) for name, tensor in problem.movable.items())


def test_a_row_beyond_its_target_there_needs_nothing() -> None:
    one = Round()
    one.aims = torch.full((4,), 1e-6).double()
    assert float(one.constraints().deltas[:4].max()) < 0
    assert float(one.constraints().deltas[4:].abs().max()) == 0


def rows(count: int) -> tuple[Row, ...]:
    return rows_of("forget", [str(n) for n in range(count)], ["one", "two", "three"])


@pytest.mark.parametrize("count", [1, 6, 7])
def test_halves_share_both_kinds_and_differ_from_round_to_round(count: int) -> None:
    given = rows(count)
    first, second = exchanges(given, 0)
    assert (first.relearned, first.others) == (second.others, second.relearned)
    assert sorted(first.relearned + first.others) == list(range(len(given)))
    assert abs(len(first.relearned) - len(first.others)) <= 1
    for kind in ("document", "answer"):
        counts = [sum(given[place].kind == kind for place in half) for half in (first.relearned, first.others)]
        assert abs(counts[0] - counts[1]) <= 1
    turned = exchanges(given[::-1], 0)[0]
    names = [{given[p].content for p in half} for half in (first.relearned, first.others)]
    assert {given[::-1][p].content for p in turned.relearned} in names
    if count > 5:
        assert exchanges(given, 1) != exchanges(given, 0)


def test_what_relearning_takes() -> None:
    """5 steps of 16 and 16 windows of 40; of 7 windows halves of 4 and 3."""
    assert Relearning().passes(40) == 160
    assert Relearning().passes(7) == 35
