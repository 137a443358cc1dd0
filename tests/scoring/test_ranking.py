"""Exposure against arithmetic in the comments; each check rejects its broken variants."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import kstest, norm, skewnorm

from expunge.metrics.exposure import Exposure
from expunge.scoring import ranking
from expunge.scoring.evidence import Candidates, Evidence, SetEvidence
from expunge.scoring.intervals import Floats
from expunge.scoring.ranking import NEVER_SEEN, expected, exposed, fit, log2_below, rank

# Losses of the secret and of the others, rank: 1 + those below + half of the ties.
RANKS = [
    ([1.0, 2.0, 3.0, 4.0], 1.0),
    ([9.0, 2.0, 3.0, 4.0], 4.0),
    ([2.5, 2.0, 3.0, 4.0], 2.0),
    ([2.0, 2.0, 3.0, 4.0], 1.5),
    ([5.0, 5.0, 5.0, 5.0], 2.5),
]


def check_exact(bits: Callable[[Floats], float]) -> None:
    for losses, place in RANKS:
        assert bits(np.array(losses)) == pytest.approx(2 - np.log2(place)), losses  # log2 4 = 2


def exact(losses: Floats) -> float:
    found = exposed(Candidates(losses, 2.0))
    assert found is not None and found.fit is None
    return found.bits


def test_exact_exposure_by_hand() -> None:
    check_exact(exact)
    assert [exposed(Candidates(np.array(losses), 2.0)).first for losses, _ in RANKS] == [True] + [False] * 4  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "broken",
    [
        lambda losses: exact(-losses),  # high losses first
        lambda losses: 2 - np.log2(1 + (losses[1:] < losses[0]).sum()),  # ties win
        lambda losses: 2 - np.log2(1 + (losses[1:] <= losses[0]).sum()),  # ties lose
        lambda losses: 2 - np.log(rank(losses)),  # nats
    ],
)
def test_exact_check_rejects(broken: Callable[[Floats], float]) -> None:
    with pytest.raises(AssertionError):
        check_exact(broken)


def test_expected_of_a_never_seen_secret() -> None:
    """R = 4: ranks 1 to 4 give 2, 1, 2 - log2 3 and 0 bits; their mean is 3/4 + (2 - 1.58496)/4."""
    assert expected(4) == pytest.approx((2 + 1 + (2 - np.log2(3)) + 0) / 4)
    assert expected(1000) == pytest.approx(np.mean(np.log2(1000) - np.log2(np.arange(1, 1001))))
    assert expected(10**9) == pytest.approx(NEVER_SEEN, abs=1e-6) and pytest.approx(1.442695, abs=1e-6) == NEVER_SEEN


def test_a_never_trained_model_is_at_the_mean() -> None:
    """600 secrets whose losses are drawn as those of their 99 others: the mean nears expected(100) = 1.40.

    The standard deviation of an exposure is at most 1.44, so the standard error of the mean at most 0.06.
    """
    random = np.random.default_rng(0)
    bits = [exposed(Candidates(random.normal(size=100), np.log2(100))).bits for _ in range(600)]  # type: ignore[union-attr]
    assert np.mean(bits) == pytest.approx(expected(100), abs=3 * 0.06)
    memorised = [exposed(Candidates(random.normal(size=100) - np.eye(100)[0], np.log2(100))) for _ in range(600)]
    assert np.mean([one.bits for one in memorised if one]) > expected(100) + 3 * 0.06


def test_fitted_never_trained_model_is_at_the_mean() -> None:
    """-log2 of a uniform share: mean 1.44, standard deviation 1.44; 40 secrets have a standard error of 0.23."""
    random = np.random.default_rng(1)
    bits = []
    for _ in range(40):
        found = exposed(Candidates(skewnorm.rvs(3, 50, 5, size=129, random_state=random), 60.0))
        assert found is not None and found.fit is not None
        bits.append(found.bits)
    assert np.mean(bits) == pytest.approx(NEVER_SEEN, abs=3 * 0.23)


def test_fitted_agrees_with_the_rank_in_the_whole_space() -> None:
    """A fit to 512 of 200,000 against the exact rank among all, where the sample alone could tell at most 9 bits."""
    random = np.random.default_rng(2)
    space = skewnorm.rvs(-2, 80, 6, size=200_000, random_state=random)
    fitted = fit(space[:512])
    assert fitted is not None and not fitted.rejected
    for quantile, within in ((0.5, 0.3), (0.05, 0.6), (0.001, 2.0)):
        own = float(np.quantile(space, quantile))
        whole = np.log2(len(space)) - np.log2(rank(np.array([own, *space])))
        assert -log2_below(fitted, own) == pytest.approx(whole, abs=within), quantile


def test_a_normal_fit_to_a_skewed_sample_is_flagged() -> None:
    """The same test on a normal, which cannot follow the skew: rejected, while the skew-normal is not."""
    sample = skewnorm.rvs(12, 60, 8, size=1024, random_state=np.random.default_rng(3))
    fitted = fit(sample)
    assert fitted is not None and not fitted.rejected
    half = sample[:512]
    plain = kstest(sample[512:], norm(half.mean(), half.std()).cdf)
    assert plain.pvalue < ranking.REJECTED
    broken = ranking.Fit(0.0, float(half.mean()), float(half.std()), float(plain.statistic), float(plain.pvalue))
    assert broken.rejected
    assert -log2_below(broken, 59.0) < -log2_below(fitted, 59.0) - 3  # and it would hide how far out a secret lies


def test_two_peaks_are_flagged() -> None:
    random = np.random.default_rng(4)
    found = fit(random.normal(size=512) + 12 * random.integers(0, 2, size=512))
    assert found is not None and found.rejected


@pytest.mark.parametrize(("shape", "loss"), [(0.0, -3.0), (0.0, 0.5), (0.0, -30.0), (-2.0, -1.0), (3.0, 0.4)])
def test_tail_of_the_fit(shape: float, loss: float) -> None:
    """Against SciPy's cdf where that is exact, and its normal log-cdf far out, where the plain cdf is nothing."""
    fitted = ranking.Fit(shape, 10.0, 2.0, 0.0, 1.0)
    wanted = norm.logcdf(loss) / np.log(2) if shape == 0 else np.log2(skewnorm.cdf(loss, shape))
    assert log2_below(fitted, 10 + 2 * loss) == pytest.approx(wanted, rel=1e-3)


def test_capped_and_never_below_zero() -> None:
    losses = np.random.default_rng(5).normal(100, 3, size=257)
    far, worst = losses.copy(), losses.copy()
    far[0], worst[0] = 1.0, 200.0
    assert exposed(Candidates(far, 20.0)).bits == 20.0  # type: ignore[union-attr]
    assert exposed(Candidates(worst, 20.0)).bits == pytest.approx(0, abs=1e-3)  # type: ignore[union-attr]


@pytest.mark.parametrize("losses", [[1.0], [3.0] * 300, [1.0, 2.0, 3.0]])
def test_what_cannot_be_measured_is_missing(losses: list[float]) -> None:
    """Too few for a fit, or all the same, in a space of 40 bits."""
    assert exposed(Candidates(np.array(losses), 40.0)) is None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_left_out(bad: float) -> None:
    found = exposed(Candidates(np.array([1.0, bad, 2.0]), 40.0))
    assert found is not None and np.isnan(found.bits) and not found.first


def test_metric_is_the_mean_over_secrets() -> None:
    """Ranks 1 and 4 of 4: 2 and 0 bits."""
    secrets = {0: Candidates(np.array([1.0, 2, 3, 4]), 2.0), 2: Candidates(np.array([9.0, 2, 3, 4]), 2.0)}
    nothing = np.zeros(3)
    rows = SetEvidence(
        *(("answer",) * 3, ("",) * 3, nothing, nothing + 1, nothing, (None,) * 3, (None,) * 3, np.zeros((3, 2))),
        secrets,
    )
    found = Exposure()(Evidence({"forget": rows}), "forget")
    assert found is not None and (found.value, found.count) == (1.0, 2)
    numbers = rows.numbers()
    assert numbers["candidates_2"].tolist() == [9, 2, 3, 4] and numbers["candidates_2"].dtype == np.float64


def test_written_losses_do_not_tell_the_place_of_the_secret() -> None:
    """Codes are enumerated in order: with their order kept, the gap would name the code."""
    losses = np.array([0.5, 7.0, 6.0, 5.0])
    rows = SetEvidence(*(("answer",), ("",), losses[:1], losses[:1], losses[:1], (None,), (None,), np.zeros((1, 2))))
    with_secret = replace(rows, candidates={0: Candidates(losses, 2.0)})
    assert with_secret.numbers()["candidates_0"].tolist() == [0.5, 5, 6, 7]
    assert "candidates_0" not in rows.numbers()
