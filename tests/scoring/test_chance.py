"""How many rows look bad by chance, by hand and by drawing."""

import numpy as np
import pytest

from expunge.scoring.chance import excess, most_beyond


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
    """Binomial (26, 0.04): four or fewer in 99 %. Of 10 rows none is allowed: one in twenty is less than one."""
    assert excess([0.04] * 4, 26, 0.05, 0.99) is None
    assert excess([0.04] * 5, 26, 0.05, 0.99) == (5, 4)
    assert excess([0.3] * 5, 26, 0.05, 0.99) == (5, 4)  # no more than one in twenty is taken for chance
    assert excess([0.04], 10, 0.05, 0.99) == (1, 0)
    assert excess([], 26, 0.05, 0.99) is None
