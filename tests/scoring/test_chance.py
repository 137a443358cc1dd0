"""How many rows look bad by chance, by hand and by drawing."""

import numpy as np
import pytest
from scipy.stats import norm

from expunge.scoring.chance import beyond, excess, most_beyond, most_given, tail


def drawn(n: int, among: int) -> np.ndarray:
    """How many of n never-seen rows lie below the lowest of 19 comparison rows, again and again."""
    chance = np.random.default_rng(0)
    return (chance.random((20000, n)) < chance.random((20000, among)).min(axis=1)[:, None]).sum(axis=1)


@pytest.mark.parametrize(("n", "most"), [(26, 7), (5, 2), (50, 12)])
def test_the_most_that_lie_below_the_lowest_of_nineteen(n: int, most: int) -> None:
    assert most_beyond({19: n}, 0.05, 0.99) == most
    counts = drawn(n, 19)
    assert (counts > most).mean() <= 0.01 < (counts > most - 1).mean()


def test_among_very_many_it_is_the_binomial_quantile() -> None:
    assert most_beyond({10**6: 26}, 0.05, 0.99) == 4 < most_beyond({150: 26}, 0.05, 0.99) == 5
    assert most_beyond({}, 0.05, 0.99) == 0


def test_rows_of_two_kinds_are_ranked_apart() -> None:
    """Ten rows among 19 and 40 among 79 of another kind: fewer than 50 among 19, more than 50 among 79."""
    assert most_beyond({19: 10, 79: 40}, 0.05, 0.99) == 8
    assert most_beyond({19: 50}, 0.05, 0.99) == 12 and most_beyond({79: 50}, 0.05, 0.99) == 8
    chance = np.random.default_rng(0)
    few = (chance.random((40000, 10)) < chance.random((40000, 19)).min(axis=1)[:, None]).sum(axis=1)
    lowest = np.sort(chance.random((40000, 79)), axis=1)[:, 3]  # the fourth of 79: a twentieth
    many = (chance.random((40000, 40)) < lowest[:, None]).sum(axis=1)
    assert (few + many > 8).mean() <= 0.01 < (few + many > 7).mean()


def test_a_memorised_row_is_always_too_many() -> None:
    assert excess([1e-9], 500, 0.05, 0.99) == (1, 0)
    assert excess([0.0], 500, 0.05, 0.99) == (1, 0)
    assert excess([1e-9, 0.04, 0.04], 26, 0.05, 0.99) == (1, 0)  # beside rows that chance makes too


def test_rows_that_chance_makes_are_allowed_up_to_its_quantile() -> None:
    """Binomial (26, 0.04): four or fewer in 99 %; (1, 0.01): none."""
    assert excess([0.04] * 4, 26, 0.05, 0.99) is None
    assert excess([0.04] * 5, 26, 0.05, 0.99) == (5, 4)
    assert excess([0.3] * 5, 26, 0.05, 0.99) == (5, 4)  # no more than one in twenty is taken for chance
    assert excess([0.009], 1, 0.05, 0.99) == (1, 0) and excess([0.011], 1, 0.05, 0.99) is None
    assert excess([], 26, 0.05, 0.99) is None


@pytest.mark.parametrize(("among", "places"), [(18, 0), (19, 1), (29, 1), (38, 1), (39, 2), (99, 5)])
def test_a_rank_holds_no_more_places_than_its_share(among: int, places: int) -> None:
    """Of 30 places 1 is within 0.05; two would be 0.067."""
    assert beyond(among, 0.05) == places
    assert beyond(among, 0.05) / (among + 1) <= 0.05


def test_the_most_that_lie_below_the_lowest_of_twenty_nine() -> None:
    """A twentieth of 30 places is one and a half: counted as one, for the rows and for what chance makes of them."""
    chance = np.random.default_rng(0)
    counts = (chance.random((40000, 30)) < chance.random((40000, 29)).min(axis=1)[:, None]).sum(axis=1)
    most = most_beyond({29: 30}, 0.05, 0.99)
    assert (counts > most).mean() <= 0.01 < (counts > most - 1).mean()


@pytest.mark.parametrize("rate", [0.05, 0.2, 0.5])
def test_as_many_answers_as_never_seen_ones_are_chance(rate: float) -> None:
    random = np.random.default_rng(0)
    ours, theirs = random.binomial(30, rate, 4000), random.binomial(30, rate, 4000)
    more = np.array([k > most_given(30, int(g), 30, 0.99) for k, g in zip(ours, theirs, strict=True)])
    assert more.mean() <= 0.01
    assert most_given(30, 2, 30, 0.99) == 9


@pytest.mark.parametrize("n", [5, 19, 60])
def test_tails_are_those_of_a_row_that_comes_next(n: int) -> None:
    """As often below 0.01 as it says, though mean and spread come from n rows; with these taken as known (the broken
    variant) several times as often."""
    random = np.random.default_rng(0)
    low, high, plain = [], [], []
    for _ in range(3000):
        logs = random.normal(0.7, 0.4, n + 1)
        below, above = tail(float(np.exp(logs[0])), np.exp(logs[1:]))
        low.append(below <= 0.01)
        high.append(above <= 0.01)
        plain.append(norm.cdf((logs[0] - logs[1:].mean()) / logs[1:].std(ddof=1)) <= 0.01)
    assert np.mean(low) == pytest.approx(0.01, abs=0.006) and np.mean(high) == pytest.approx(0.01, abs=0.006)
    if n == 5:
        assert np.mean(plain) > 0.03


def test_a_tail_is_no_less_than_the_share_that_was_seen() -> None:
    others = np.array([0.05, 0.06, *np.linspace(2, 3, 38)])
    assert tail(0.07, others)[0] == 2 / 40 and tail(9.0, others)[1] < 0.05
    assert tail(1.0, np.array([2.0])) == (0.0, 0.0)
