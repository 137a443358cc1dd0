"""A restoration goes by the rows that moved farthest, by dense distributions of a tiny model in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.influence import farthest
from expunge.method import State
from expunge.problem import Problem
from expunge.reference.cache import keep_each
from oracles import identical
from problems import model_of, problem_of

WINDOWS = (1, 2, 1, 1, 1, 2, 1)  # of each row


def log_probs(problem: Problem) -> list[Tensor]:
    """Of each window's targets [targets, V], one window at a time."""
    found = []
    for window in problem.splits["retain"].windows:
        logits = problem.model(input_ids=torch.tensor([window.ids]), use_cache=False).logits[0].detach()
        before = torch.tensor([t - 1 for t, counts in enumerate(window.counted) if counts])
        found.append(logits[before].log_softmax(dim=1))
    return found


class Moved:
    """A problem whose weights have moved, what was kept before that, and the KL of each row by hand."""

    def __init__(self) -> None:
        self.problem = problem_of(model_of("llama"), {"forget": (1, 1), "retain": WINDOWS})
        self.split = self.problem.splits["retain"]
        self.state = State()
        self.state.caches["looked"] = list(
            zip([self.split] * 2, keep_each(self.problem, [self.split] * 2), strict=True)
        )
        self.original = log_probs(self.problem)
        self.move(1)

    def move(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for tensor in self.problem.movable.values():
                tensor += 0.2 * torch.randn(tensor.shape, generator=generator).to(tensor)

    def order(self) -> list[int]:
        """Rows by their KL from the original, the largest first."""
        by_row = [0.0] * len(WINDOWS)
        for window, own, now in zip(self.split.windows, self.original, log_probs(self.problem), strict=True):
            by_row[window.row] += float((own.exp() * (own - now)).sum())
        return sorted(range(len(by_row)), key=lambda row: -by_row[row])

    def taken(self, place: int, number: int, many: int) -> list[int]:
        found = farthest.rows(self.problem, self.state, place, number, many)
        return [self.split.rows.index(row) for row in found.rows.rows]


def check_chosen() -> None:
    made = Moved()
    order = made.order()
    assert made.taken(0, 0, 3) == sorted(order[:3])
    assert made.taken(0, 1, 3) == sorted(order[3:6])
    assert made.taken(0, 2, 3) == sorted(order[:3])  # one is left, too few for a direction
    assert made.taken(0, 0, 20) == list(range(len(WINDOWS)))


def test_the_farthest_come_first_and_then_those_after_them() -> None:
    check_chosen()


@pytest.mark.parametrize("broken", ["nearest", "means"])
def test_check_rejects(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that hardly moved, and a mean over windows in place of a sum."""
    real = farthest.window_divergences

    def spoilt(problem: Problem, split: Any, kept: Any) -> Any:
        found = real(problem, split, kept)
        many = torch.tensor([WINDOWS[window.row] for window in split.windows])
        found.kl.copy_(1 / found.kl if broken == "nearest" else found.kl / many**3)
        return found

    monkeypatch.setattr(farthest, "window_divergences", spoilt)
    with pytest.raises(AssertionError):
        check_chosen()


def test_rows_are_looked_at_once_for_each_iteration() -> None:
    """By what is carried too, in another process."""
    made = Moved()
    before = made.order()
    first = made.taken(0, 0, 3)
    made.move(2)
    assert made.order() != before
    assert made.taken(0, 0, 3) == first == sorted(before[:3])
    other = Moved()
    other.move(2)
    other.state.carried |= made.state.carried
    assert other.taken(0, 1, 3) == sorted(before[3:6])
    assert made.taken(1, 0, 3) == sorted(made.order()[:3])


def test_distributions_are_those_of_the_rows() -> None:
    made = Moved()
    found = farthest.rows(made.problem, made.state, 0, 0, 3)
    original = {window.ids: one for window, one in zip(made.split.windows, made.original, strict=True)}
    assert len(found.rows.windows) == len(found.kept.log_probs) == sum(WINDOWS[row] for row in made.taken(0, 0, 3))
    for window, log_probs, ids in zip(found.rows.windows, found.kept.log_probs, found.kept.ids, strict=True):
        own = original[window.ids].gather(1, ids.long())
        assert torch.allclose(log_probs.double(), own, atol=1e-9)
    assert 0 < found.share < 1 and found.fresh
    whole = farthest.rows(made.problem, made.state, 0, 0, 7)
    assert not whole.fresh
    assert whole.share == pytest.approx(1) and identical(whole.rows, made.split)
