"""The retrained band: arithmetic by hand, and variants that leave out a source of chance are shown to be too sure."""

import math

import numpy as np
import pytest

from expunge.scoring import band
from expunge.scoring.band import AS_RETRAINED, CANNOT_TELL, DIFFERS, NOT_FINITE, Difference, Measured, Pooled

Z2 = 3.841459  # 1.959964 squared


def plain(*values, half=0.0392):
    """Cells whose scores are no means over rows; a half width of 0.0392 is a standard error of 0.02."""
    return [Measured(value, value - half, value + half) for value in values]


def of_rows(*rows):
    return [Measured(float(np.mean(values)), rows=np.array(values, dtype=float)) for values in rows]


def twins(spread=0.0):
    return Pooled(0.1, 0.0, 0.2, 0.1 - spread / 2, 0.1 + spread / 2, 3)


def test_interval_over_seeds_by_hand():
    # rows: error 0.02, infinitely many degrees of freedom. Seeds: s = 0.02, error 0.02 / sqrt(3) = 0.011547, two.
    # total 0.0004 + 0.00013333 = 0.00053333; freedom 0.00053333^2 / (0.00013333^2 / 2) = 32; t = 2.0369
    # reach 2.0369 * 0.023094 = 0.04704
    found = band.pool(plain(0.10, 0.12, 0.14))
    assert found.value == pytest.approx(0.12)
    assert (found.low, found.high) == pytest.approx((0.07296, 0.16704), abs=2e-5)
    assert (found.least, found.most, found.seeds) == (0.10, 0.14, 3)
    without_seeds = 0.12 - 0.0392
    root_of_three = 0.12 - 1.96 * math.sqrt(0.02**2 / 3 + 0.011547**2)  # as if every seed had its own rows
    assert found.low < without_seeds < root_of_three


def test_one_seed_keeps_its_own_interval_and_one_twin_is_the_band():
    found = band.band(plain(0.3, half=0.05))
    assert (found.value, found.low, found.high, found.half_spread) == pytest.approx((0.3, 0.25, 0.35, 0.0))
    assert band.pool([Measured(0.3)]).low is None


def test_the_band_holds_every_twin():
    # two twins with hardly any row noise: 0.5 +- 12.706 * 0.1 would hold them; with many twins the mean's would not
    cells = plain(*([0.0] * 30 + [1.0] * 30), half=0.001)
    assert band.pool(cells).high < 0.7
    assert (band.band(cells).low, band.band(cells).high) == (0.0, 1.0)


def test_an_interval_ends_where_the_scale_does():
    cells = plain(0.0, 0.5)
    assert band.pool(cells).low < -2 and band.pool(cells).high > 2
    assert (band.pool(cells, (0.0, 1.0)).low, band.pool(cells, (0.0, 1.0)).high) == (0.0, 1.0)
    found = band.difference(cells, plain(0.9), (0.0, 1.0))
    assert (found.low, found.high) == (-1.0, 1.0)


def test_a_score_at_the_end_of_its_scale_is_not_taken_for_sameness():
    # 0 of 24 beside 3 of 24: no score lies lower, so an interval that ended 0.125 below the twins' mean would end
    # within a margin of 0.13, as if that mean were known
    found = band.difference(of_rows([0] * 24), of_rows([1] * 3 + [0] * 21), (0.0, 1.0))
    assert found.low < -0.2
    assert band.stand(found, 0.13, twins(), "forget", -1).word == CANNOT_TELL


def test_seeds_without_any_hit_are_not_sure_to_have_none():
    # Wilson at 0 of 68: z^2 / (n + z^2) = 3.8415 / 71.8415 = 0.05347. Three seeds asked the same 68 questions.
    found = band.pool(of_rows([0] * 68, [0] * 68, [0] * 68))
    assert (found.low, found.high) == pytest.approx((0.0, 0.05347), abs=1e-5)
    assert np.quantile(band.bootstrap(68) @ np.zeros(68), 0.975) == 0, "the bootstrap alone would be sure"


def test_wilson_by_hand_where_seeds_agree():
    # 20 of 80, both seeds: centre (20 + 1.92073) / 83.84146 = 0.26145; half = 1.959964 * sqrt(15 + 0.960365) / 83.84146
    rows = [1] * 20 + [0] * 60
    found = band.pool(of_rows(rows, rows))
    assert (found.low, found.high) == pytest.approx((0.26145 - 0.09339, 0.26145 + 0.09339), abs=2e-5)


@pytest.mark.parametrize(("n", "reach", "word"), [(12, 0.2425, CANNOT_TELL), (200, 0.01885, AS_RETRAINED)])
def test_few_misses_beside_few_misses_show_no_sameness(n, reach, word):
    # Tango's interval without a row that differs: z^2 / (n + z^2)
    found = band.difference(of_rows([0] * n), of_rows([0] * n))
    assert (found.low, found.high) == pytest.approx((-reach, reach), abs=1e-4)
    assert reach == pytest.approx(Z2 / (n + Z2), abs=1e-4)
    assert band.stand(found, 0.05, twins(), "forget", -1).word == word


def test_difference_is_taken_row_by_row():
    easy_and_hard = np.linspace(0.05, 0.85, 40)
    method, twin = of_rows(easy_and_hard + 0.01), of_rows(easy_and_hard)
    paired = band.difference(method, twin)
    assert paired.paired and (paired.value, paired.low, paired.high) == pytest.approx((0.01, 0.01, 0.01))
    # unpaired, rows of spread 0.2366 (ddof 1: 0.2396) leave +- 1.96 * sqrt(2) * 0.2366 / sqrt(40) = 0.1037
    half = 1.96 * easy_and_hard.std() / math.sqrt(40)
    unpaired = band.difference(plain(method[0].value, half=half), plain(twin[0].value, half=half))
    assert not unpaired.paired
    assert (unpaired.low, unpaired.high) == pytest.approx((0.01 - 0.1037, 0.01 + 0.1037), abs=2e-4)
    words = [band.stand(found, 0.05, twins(), "retain", 1).word for found in (paired, unpaired)]
    assert words == [AS_RETRAINED, CANNOT_TELL]


def test_difference_over_seeds_by_hand():
    # rows differ by exactly 0.2 in the mean over seeds, so rows bring no error; seeds 0.2 and 0.4 beside 0.1 and 0.1:
    # s = 0.141421, error 0.1, one degree of freedom, t = 12.7062
    flat = np.ones(10)
    found = band.difference(of_rows(flat * 0.2, flat * 0.4), of_rows(flat * 0.1, flat * 0.1))
    assert found.value == pytest.approx(0.2)
    assert (found.low, found.high) == pytest.approx((0.2 - 1.27062, 0.2 + 1.27062), abs=1e-4)
    assert band.stand(found, 0.05, twins(), "forget", -1).word == CANNOT_TELL, "two seeds so far apart tell nothing"


def test_asymmetry_is_kept_on_the_right_side():
    # method 0.5 (0.49 to 0.60), twin 0.3 (0.10 to 0.31): low = 0.2 - sqrt(0.01^2 + 0.01^2), high = 0.2 + sqrt(0.1^2 +
    # 0.2^2): above the difference lie a method that is higher and a twin that is lower
    found = band.difference([Measured(0.5, 0.49, 0.6)], [Measured(0.3, 0.1, 0.31)])
    assert (found.low, found.high) == pytest.approx((0.2 - 0.014142, 0.2 + 0.223607), abs=1e-5)
    mirrored = 0.2 - math.hypot(0.01, 0.2)
    assert found.low > mirrored + 0.1


@pytest.mark.parametrize(
    ("low", "high", "side", "better", "word", "leaning"),
    [
        (-0.04, 0.04, "forget", -1, AS_RETRAINED, ""),
        (-0.04, 0.06, "forget", -1, CANNOT_TELL, ""),
        (-0.06, 0.04, "forget", -1, CANNOT_TELL, ""),  # a test of one side would let this pass
        (0.06, 0.30, "forget", -1, "short", ""),
        (0.01, 0.30, "forget", -1, CANNOT_TELL, "short"),
        (-0.30, -0.06, "forget", -1, "beyond", ""),
        (-0.30, -0.06, "forget", 1, "short", ""),  # a loss: lower is better known
        (0.06, 0.30, "forget", 0, DIFFERS, ""),
        (-0.30, -0.06, "retain", 1, "lost", ""),
        (-0.30, -0.01, "retain", 1, CANNOT_TELL, "lost"),
        (0.06, 0.30, "retain", -1, "lost", ""),
        (0.06, 0.30, "retain", 1, "gained", ""),
        (0.06, 0.30, "other", 1, DIFFERS, ""),
        (0.01, 0.04, "other", 0, AS_RETRAINED, ""),  # not zero, and yet within the margin
        (-0.30, 0.30, "other", 0, CANNOT_TELL, ""),
    ],
)
def test_words(low, high, side, better, word, leaning):
    found = band.stand(Difference((low + high) / 2, low, high, True), 0.05, twins(), side, better)
    assert (found.word, found.leaning) == (word, leaning)


def test_tolerance_grows_with_the_spread_of_the_twins_and_not_with_their_interval():
    found = Difference(0.06, 0.055, 0.065, True)
    assert band.stand(found, 0.05, twins(spread=0.0), "forget", -1).word == "short"
    spread = band.stand(found, 0.05, twins(spread=0.04), "forget", -1)
    assert (spread.word, spread.tolerance) == (AS_RETRAINED, pytest.approx(0.07))
    unsure = Pooled(0.1, -0.9, 1.1, 0.1, 0.1, 3)  # few rows must not make it easier
    assert band.stand(found, 0.05, unsure, "forget", -1).word == "short"


def test_without_an_interval_nothing_can_be_told():
    found = band.difference([Measured(0.1), Measured(0.1)], plain(0.1))
    assert found.low is None
    assert band.stand(found, 0.5, twins(), "other", 0).word == CANNOT_TELL
    assert band.pool([Measured(0.1), Measured(0.1)]).low is None, "seeds alone would leave out the rows"


def test_a_loss_that_is_not_finite_is_no_missing_score():
    cells = [Measured(math.inf), Measured(1.0, 0.9, 1.1)]
    assert math.isnan(band.pool(cells).value)
    assert band.stand(band.difference(cells, plain(1.0)), 0.1, twins(), "retain", -1).word == NOT_FINITE


def test_rows_count_only_where_they_match():
    rows = np.array([0.2, 0.4, np.nan, 0.6])
    one, other = Measured(0.4, rows=rows), Measured(0.5, rows=rows + 0.1)
    assert band.aligned([one, other]).shape == (2, 3)
    assert band.aligned([one, Measured(0.5)]) is None
    assert band.aligned([one, Measured(0.4, rows=rows[:3])]) is None
    assert band.aligned([one, Measured(0.4, rows=np.array([0.2, np.nan, 0.4, 0.6]))]) is None, "other rows were asked"
    assert band.aligned([one, Measured(0.7, rows=rows + 0.1)]) is None, "the score is not the mean of these rows"
    assert band.aligned([Measured(math.nan, rows=rows * np.nan)]) is None


def test_intervals_cover_what_they_say_and_variants_do_not():
    """Method and twins are of one kind, with spread over seeds and rows: how often does the interval hold zero?"""
    draw, runs, n = np.random.default_rng(5), 400, 50
    held = {"whole": 0, "without seeds": 0, "normal quantile": 0}
    for _ in range(runs):
        hard = draw.normal(0.5, 0.2, n)  # what makes a row hard, the same for every model
        rows = hard + draw.normal(0, 0.05, (6, 1)) + draw.normal(0, 0.05, (6, n))
        found = band.difference(of_rows(*rows[:3]), of_rows(*rows[3:]))
        held["whole"] += found.low <= 0 <= found.high
        per_row = rows[:3].mean(axis=0) - rows[3:].mean(axis=0)
        of_row = per_row.std(ddof=1) / math.sqrt(n)
        held["without seeds"] += abs(per_row.mean()) <= 1.96 * of_row
        means = rows.mean(axis=1)
        error = math.sqrt(of_row**2 + means[:3].var(ddof=1) / 3 + means[3:].var(ddof=1) / 3)
        held["normal quantile"] += abs(per_row.mean()) <= 1.96 * error
    assert held["whole"] / runs >= 0.94
    assert held["normal quantile"] / runs < 0.92 and held["without seeds"] / runs < 0.5


def test_same_cells_same_numbers_in_any_order():
    draw = np.random.default_rng(0)
    rows, others = draw.random((3, 20)), draw.random((3, 20))
    first = band.difference(of_rows(*rows), of_rows(*others))
    again = band.difference(of_rows(*rows[::-1]), of_rows(*others[::-1]))
    assert (first.low, first.high) == pytest.approx((again.low, again.high))
