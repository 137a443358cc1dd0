"""The true positive rate at a low false positive rate: by hand, and how often its interval holds the truth."""

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from scipy.stats import norm

from expunge.scoring.intervals import Floats, Score
from expunge.scoring.low_rates import RATE, true_positives

Measure = Callable[[Sequence[tuple[Floats, Floats]], float], Score | None]
UPWARD = np.arange(1.0, 101)  # losses of 100 others: at 1 % one of them may be accused, so the threshold is 2
NONE_OF_FOUR = 1 - 4 / (4 + norm.ppf(1 - 0.0125) ** 2)  # Wilson: z^2 / (n + z^2)
# Members, others, value, low, high.
HAND: list[tuple[list[float], Floats, float, float, float]] = [
    ([0.5, 1.5, 2.0, 3.0], UPWARD, 0.5, 0.0, 1.0),  # below 2; the 5th lowest other is 5, so all four may be below
    ([6.0, 7.0, 8.0, 9.0], UPWARD, 0.0, 0.0, NONE_OF_FOUR),  # none is below 5: that much can be told with 100
    ([0.5] * 4, UPWARD[:19] * 2, 1.0, 0.0, 1.0),  # 19 others tell nothing of rows that are known
    ([0.5] * 4, np.arange(1.0, 1001), 1.0, 1 - NONE_OF_FOUR, 1.0),  # with 1,000 the 4th lowest bounds the threshold
    ([3.5, 4.5, 19.0, 19.5], np.arange(1.0, 1001), 0.5, 0.0374, 0.9626),  # 11th lowest; Wilson of 1 and of 3 in 4
]


def check_by_hand(measure: Measure) -> None:
    for members, others, value, low, high in HAND:
        found = measure([(np.array(members), others)], RATE)
        assert found is not None and found.low is not None and found.high is not None
        assert (found.value, found.count) == (value, len(members))
        assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_by_hand() -> None:
    check_by_hand(true_positives)


def _ties_accuse(groups: Sequence[tuple[Floats, Floats]], rate: float) -> Score | None:
    return true_positives([(members - 1e-6, others) for members, others in groups], rate)


def _as_if_sure_of_the_threshold(groups: Sequence[tuple[Floats, Floats]], rate: float) -> Score | None:
    found = true_positives([(members, np.repeat(others, 50)) for members, others in groups], rate)
    return found


@pytest.mark.parametrize("broken", [_ties_accuse, _as_if_sure_of_the_threshold])
def test_the_check_rejects(broken: Measure) -> None:
    with pytest.raises(AssertionError):
        check_by_hand(broken)


def test_each_kind_has_its_own_threshold() -> None:
    groups = [(np.array([0.5]), UPWARD), (np.array([150.0]), UPWARD + 100)]  # pooled, the second would be a miss too
    found, pooled = (
        true_positives(given, RATE) for given in (groups, [tuple(map(np.concatenate, zip(*groups, strict=True)))])
    )
    assert found is not None and found.value == 0.5
    assert pooled is not None and pooled.value == 0.5
    groups[1] = (np.array([100.5]), UPWARD + 100)
    found, pooled = (
        true_positives(given, RATE) for given in (groups, [tuple(map(np.concatenate, zip(*groups, strict=True)))])
    )
    assert found is not None and found.value == 1.0
    assert pooled is not None and pooled.value == 0.5


def test_nothing_to_pair_and_what_is_not_a_number() -> None:
    assert true_positives([(np.array([1.0]), np.array([]))], RATE) is None
    found = true_positives([(np.array([1.0, np.nan]), UPWARD)], RATE)
    assert found is not None and np.isnan(found.value) and found.low is None


def coverage(measure: Measure) -> float:
    """Of 200 worlds of 60 members a standard deviation below 500 others: how often the interval holds the truth."""
    truth = float(norm.cdf(norm.ppf(RATE) + 1))
    draw, held = np.random.default_rng(0), 0
    for _ in range(200):
        found = measure([(draw.normal(-1, 1, 60), draw.normal(0, 1, 500))], RATE)
        assert found is not None and found.low is not None and found.high is not None
        held += found.low <= truth <= found.high
    return held / 200


def test_the_interval_holds_the_truth() -> None:
    assert coverage(true_positives) >= 0.95
    assert coverage(_as_if_sure_of_the_threshold) < 0.95
