"""The likelihood attack with retrained models, by hand and on drawn losses of which it is known what they are."""

import numpy as np
import pytest

from expunge.scoring.likelihood import told_apart

N, TWINS = 200, 4


def drawn(shift: float, seed: int) -> np.ndarray:
    """Losses of rows that each have a level of their own, lowered by so much."""
    levels = np.random.default_rng(0).uniform(2, 6, N)
    return levels - shift + np.random.default_rng(seed).normal(0, 0.2, N)


RETRAINED = np.stack([drawn(0, seed) for seed in range(1, TWINS + 1)])


def test_the_area_by_hand() -> None:
    """Rows of 2 and 6 nats under one retrained model and 2.2 and 6.2 under the other: each, left out, is 0.2 off in the
    same direction in both rows. At 1.9 and 5.9 both rows lie below the first (off by -0.3 from the second, it by -0.2)
    and below the second (off by -0.1 from the first, it by 0.2)."""
    twins = np.array([[2.0, 6.0], [2.2, 6.2]])
    told = told_apart(np.array([1.9, 5.9]), twins)
    assert told and told.area.value == 1
    same = told_apart(twins[0], twins)
    assert same and same.area.value == 0.75  # a tie with itself, and below the other


def test_another_retrained_model_cannot_be_told_and_two_fifths_of_a_nat_can() -> None:
    alike, lower = told_apart(drawn(0, 9), RETRAINED), told_apart(drawn(0.4, 9), RETRAINED)
    assert alike and lower
    assert alike.area.low is not None and alike.area.high is not None and lower.area.low is not None
    assert alike.area.low < 0.5 < alike.area.high and alike.area.count == N
    assert lower.area.low > 0.8 > alike.area.high and lower.rate.value > alike.rate.value
    # What a mean over rows does not see: half of the rows lower, the others higher by as much.
    sign = np.where(np.arange(N) % 2, 1.0, -1.0)
    uneven = told_apart(drawn(0, 9) + sign, RETRAINED)
    assert uneven and uneven.rate.value > 0.4 > abs(uneven.area.value - 0.5) * 10


def test_the_levels_of_rows_do_not_hide_it() -> None:
    """A plain comparison of losses cannot tell what lies between rows of 2 and of 6 nats."""
    from expunge.scoring.intervals import area_draws

    plain = area_draws([(drawn(0.4, 9), RETRAINED[0])])
    told = told_apart(drawn(0.4, 9), RETRAINED)
    assert plain and told and plain.value < 0.65 and told.area.value > 0.85


@pytest.mark.parametrize(
    "twins", [RETRAINED[:1], np.where(np.arange(N) == 3, np.nan, RETRAINED)], ids=["one twin", "a loss that is none"]
)
def test_too_little_to_tell(twins: np.ndarray) -> None:
    assert told_apart(drawn(0, 9), twins) is None
