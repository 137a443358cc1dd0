"""A restoration goes by the rows to keep that moved farthest, by dense distributions of a tiny model in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.gradients.summed import divergence_gradient
from expunge.influence import farthest
from expunge.influence.amounts import LOOKED
from expunge.influence.request import Request
from expunge.method import State
from expunge.methods.margin_newton import MarginNewton
from expunge.problem import Problem, divided
from expunge.reference.kept import rows_to_keep
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
    """A problem whose weights have moved, what was kept before that, and the KL of each row by hand.

    In two iterations all seven rows are looked at; the second of three restorations has a never-seen row beside them.
    """

    def __init__(self, many: int = 3) -> None:
        self.problem = problem_of(model_of("llama"), {"forget": (1, 1), "retain": WINDOWS, "unseen": (1, 1, 1)})
        self.split, self.unseen = self.problem.splits["retain"], self.problem.splits["unseen"]
        others = [self.unseen.of([place], f"other {place}") for place in range(3)]
        self.state = State()
        self.state.caches["looked"] = farthest.prepared(self.problem, [(self.split, others)] * 2, many)
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

    def taken(self, place: int, number: int) -> list[int]:
        """Rows to keep; beside them stands the never-seen row of this restoration."""
        (rows, _), (other, _) = farthest.choose(self.problem, self.state, place, number).rows
        assert other.rows == (self.unseen.rows[number],)
        return [self.split.rows.index(row) for row in rows.rows]


def check_chosen() -> None:
    made = Moved()
    order = made.order()
    for number, far in enumerate((order[:3], order[3:6], order[:3])):  # then one is left, too few
        assert made.taken(0, number) == sorted(far)
    assert Moved(many=20).taken(0, 0) == list(range(len(WINDOWS)))


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
    first = made.taken(0, 0)
    made.move(2)
    assert made.order() != before
    assert made.taken(0, 0) == first == sorted(before[:3])
    other = Moved()
    other.move(2)
    other.state.carried |= made.state.carried
    assert other.taken(0, 1) == sorted(before[3:6])
    assert made.taken(1, 0) == sorted(made.order()[:3])
    made.move(3)  # and beyond the last iteration, by the first one's draws
    assert made.order()[:3] != before[:3] and made.taken(2, 0) == sorted(made.order()[:3])


def test_the_gradient_is_that_of_the_rows_with_their_distributions() -> None:
    made = Moved()
    found = farthest.choose(made.problem, made.state, 0, 0)
    original = {window.ids: one for window, one in zip(made.split.windows, made.original, strict=True)}
    (rows, kept), _ = found.rows
    assert len(rows.windows) == len(kept.log_probs) == sum(WINDOWS[row] for row in made.taken(0, 0))
    for window, log_probs, ids in zip(rows.windows, kept.log_probs, kept.ids, strict=True):
        assert torch.allclose(log_probs.double(), original[window.ids].gather(1, ids.long()), atol=1e-9)
    assert 0 < found.share < 1 and found.fresh
    assert not farthest.choose(made.problem, made.state, 0, 1).fresh
    assert identical(found.gradient(made.problem), divergence_gradient(made.problem, list(found.rows)))
    whole = farthest.choose(made.problem, Moved(many=7).state, 0, 0)
    assert whole.share == 1 and not whole.fresh and identical(whole.rows[0][0], made.split)


@pytest.mark.parametrize("unseen", [6, 0, 18])
def test_a_request_draws_both_kinds_as_they_are_kept(unseen: int) -> None:
    """Six retain rows are left to keep beside those that measure steps; eight rows a restoration."""
    splits: dict[str, Any] = {"forget": (1, 1), "retain": (1,) * 9} | ({"unseen": (1,) * unseen} if unseen else {})
    method = MarginNewton(iterations=3, restorations=2, keep_rows=8)
    problem = divided(problem_of(model_of("llama"), splits), method.needs.parts)
    kept = rows_to_keep(problem)
    assert kept is not None
    own = len(kept) - unseen
    request = Request(method, problem)
    assert request.chosen(kept) == round(min(8, len(kept)) * own / len(kept))
    looked = request.looked(kept)
    assert len(looked) == 3
    for known, others in looked:
        assert len(known) == min(own, LOOKED * request.chosen(kept)) and set(known.rows) <= set(kept.rows[:own])
        assert len(others) == (2 if unseen else 0)
        assert all(set(one.rows) <= set(kept.rows[own:]) for one in others)
        assert all(len(one) == min(8, len(kept)) - request.chosen(kept) for one in others)
    if unseen == 18:
        assert looked[0][1][0].rows != looked[0][1][1].rows  # each a draw of its own
