"""How much a request takes follows from its size, by the numbers written here."""

from expunge.influence.amounts import amounts, asked
from expunge.methods.margin_newton import MarginNewton


def test_a_small_request_takes_one_restoration_and_few_rows() -> None:
    found = amounts(10, 357)  # 10 / 367 = 2.7 %
    assert (found.iterations, found.restorations, found.refit_every, found.held) == (4, 1, 0, 0)
    assert (found.fit, found.keep) == (64, 12)


def test_a_tenth_takes_two() -> None:
    found = amounts(48, 357)  # 11.9 %
    assert (found.iterations, found.share, found.restorations, found.refit_every, found.held) == (5, 0.5, 2, 0, 24)
    assert (found.fit, found.keep) == (192, 48)


def test_above_a_quarter_rows_are_held_and_the_curvature_is_fitted_anew() -> None:
    found = amounts(220, 357)  # 38 %
    assert (found.iterations, found.share, found.restorations, found.refit_every) == (10, 0.35, 2, 2)
    assert (found.held, found.fit, found.keep) == (200, 384, 128)
    assert amounts(20, 30).held == 30


def test_above_an_eighth_a_restoration_goes_by_twice_as_many_rows() -> None:
    found = amounts(50, 258)  # 16 %
    assert (found.keep, found.iterations, found.share) == (100, 8, 0.5)
    assert amounts(10, 70).keep == 12 and amounts(11, 70).keep == 22  # 12.5 %, 13.6 %


def test_the_edges_belong_below() -> None:
    assert amounts(5, 95).restorations == 1 and amounts(6, 94).restorations == 2
    assert amounts(25, 75).refit_every == 0 and amounts(26, 74).refit_every == 2


def test_a_curvature_for_requests_to_come_is_fitted_on_as_many_rows_as_any() -> None:
    assert amounts(0, 1000).fit == 384


def test_options_go_over_it_and_a_lora_is_not_fitted_anew_unless_asked() -> None:
    found = asked(MarginNewton(iterations=3, held_rows=0), 220, 357)
    assert (found.iterations, found.held, found.refit_every, found.fit) == (3, 0, 2, 384)
    assert asked(MarginNewton(), 220, 357, lora=True).refit_every == 0
    assert asked(MarginNewton(refit_every=2), 220, 357, lora=True).refit_every == 2
