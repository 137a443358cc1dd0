"""A restoration goes by the rows that moved farthest and by some that stand for the rest, by dense distributions of a
tiny model in float64."""

from typing import Any

import pytest
import torch
from torch import Tensor

from expunge.gradients.summed import divergence_gradient
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

    def taken(self, place: int, number: int, many: int) -> list[list[int]]:
        """The rows of each stratum: those that moved farthest, and those that stand for the others."""
        found = farthest.choose(self.problem, self.state, place, number, many)
        return [[self.split.rows.index(row) for row in one.rows.rows] for one in found.strata]


def check_chosen() -> None:
    made = Moved()
    order = made.order()
    for number, far in enumerate((order[:2], order[2:4], order[4:6], order[:2])):  # then one is left, too few
        exact, others = made.taken(0, number, 4)
        assert exact == sorted(far) and len(others) == 2 and not set(others) & set(far)
    assert made.taken(0, 0, 20) == [list(range(len(WINDOWS)))]


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


def by_hand(made: Moved) -> Tensor:
    """Gradient of the mean KL over the tokens of all that was looked at, flat."""
    every = [(made.split, made.state.caches["looked"][0][1])]
    return flat(divergence_gradient(made.problem, every))


def flat(gradient: dict[str, Tensor]) -> Tensor:
    return torch.cat([part.flatten() for _, part in sorted(gradient.items())])


def on_average(made: Moved, spoilt: bool = False) -> Tensor:
    """Sums of gradients over sums of tokens, over all that may be drawn beside the farthest row."""
    total, tokens = torch.zeros(()).double(), 0.0
    farthest.choose(made.problem, made.state, 0, 0, 2)
    order, looked = made.state.carried[farthest.SEEN][1], made.state.caches["looked"][0]
    for other in order[1:]:
        strata = [farthest._of(*looked, [row], times) for row, times in ((order[0], 1.0), (other, 6.0))]
        if spoilt:
            strata = [one._replace(times=1.0) for one in strata]
        found = farthest.Chosen(tuple(strata), 0.0, False)
        own = sum(one.tokens for one in strata)
        total, tokens = total + own * flat(found.gradient(made.problem)), tokens + own
    return total / tokens


def test_the_gradient_is_that_of_all_on_average() -> None:
    made = Moved()
    expected = by_hand(made)
    assert torch.allclose(on_average(made), expected, rtol=1e-6, atol=1e-9)
    assert not torch.allclose(on_average(made, spoilt=True), expected, rtol=0.05)


def test_rows_are_looked_at_once_for_each_iteration() -> None:
    """By what is carried too, in another process."""
    made = Moved()
    before = made.order()
    first = made.taken(0, 0, 4)
    made.move(2)
    assert made.order() != before
    assert made.taken(0, 0, 4) == first and first[0] == sorted(before[:2])
    other = Moved()
    other.move(2)
    other.state.carried |= made.state.carried
    assert other.taken(0, 1, 4) == made.taken(0, 1, 4) and other.taken(0, 1, 4)[0] == sorted(before[2:4])
    assert made.taken(1, 0, 4)[0] == sorted(made.order()[:2])


def test_distributions_are_those_of_the_rows() -> None:
    made = Moved()
    found = farthest.choose(made.problem, made.state, 0, 0, 4)
    original = {window.ids: one for window, one in zip(made.split.windows, made.original, strict=True)}
    for stratum, rows in zip(found.strata, made.taken(0, 0, 4), strict=True):
        assert len(stratum.rows.windows) == len(stratum.kept.log_probs) == sum(WINDOWS[row] for row in rows)
        for window, kept, ids in zip(stratum.rows.windows, stratum.kept.log_probs, stratum.kept.ids, strict=True):
            assert torch.allclose(kept.double(), original[window.ids].gather(1, ids.long()), atol=1e-9)
    assert [one.times for one in found.strata] == [1.0, 2.5]  # two of the five others
    assert 0 < found.share < 1 and found.fresh
    whole = farthest.choose(made.problem, made.state, 0, 0, 7)
    assert whole.share == 1 and not whole.fresh and identical(whole.strata[0].rows, made.split)
