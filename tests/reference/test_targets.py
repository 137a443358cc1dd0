"""Targets: the distribution of comparable unseen rows, by kind and shape, not their mean."""

from collections.abc import Callable

import numpy as np
import pytest

from expunge.reference.targets import FEWEST_NEIGHBOURS, Floats, Measured, Shaped, Targets, comparable, match

Matching = Callable[[Measured, Measured], Floats]
SAME = (3.0, 0.0)


def measured(*groups: tuple[str, tuple[float, float], list[float]]) -> Measured:
    """Rows of groups (kind, shape, losses)."""
    kinds = [kind for kind, _, losses in groups for _ in losses]
    places = [shape for _, shape, losses in groups for _ in losses]
    return Measured(Shaped(kinds, np.array(places)), np.array([loss for _, _, losses in groups for loss in losses]))


UNSEEN = measured(
    ("document", SAME, [float(n) for n in range(12, 0, -1)]), ("answer", SAME, [100.0 + n for n in range(1, 13)])
)


def check_kinds(matching: Matching) -> None:
    """Three documents take the quantiles 1/6, 1/2, 5/6 of 1..12 (1 + 11 q), one answer the median of 101..112."""
    forget = measured(("document", SAME, [0.3, 0.1, 0.2]), ("answer", SAME, [9.0]))
    wanted = [1 + 55 / 6, 1 + 11 / 6, 6.5, 106.5]
    assert matching(forget, UNSEEN) == pytest.approx(wanted)


def check_shapes(matching: Matching) -> None:
    """24 short unseen answers at 1.0, 24 long ones at 5.0; a quarter of 48 are neighbours: 12 of one's own shape."""
    unseen = measured(("answer", (2.0, 0.0), [1.0] * 24), ("answer", (6.0, 0.0), [5.0] * 24))
    forget = measured(("answer", (2.1, 0.1), [0.1] * 3), ("answer", (5.9, 0.1), [0.2] * 3))
    assert matching(forget, unseen).tolist() == [1.0] * 3 + [5.0] * 3


def check_distribution(matching: Matching) -> None:
    """Twelve forget rows, twelve unseen ones at 1..12, all of one shape: the i-th takes 1 + 11 (i + 1/2) / 12,
    but the first and last (quantiles 1/24 and 23/24) no less than 0.1 and no more than 0.9.
    """
    forget = measured(("answer", SAME, list(np.linspace(0.1, 0.2, FEWEST_NEIGHBOURS))))
    found = matching(forget, measured(("answer", SAME, [float(n) for n in range(12, 0, -1)])))
    assert found == pytest.approx([1 + 11 * min(0.9, max(0.1, (i + 0.5) / 12)) for i in range(12)])
    assert found.mean() == pytest.approx(6.5)


CHECKS = [check_kinds, check_shapes, check_distribution]


@pytest.mark.parametrize("check", CHECKS)
def test_targets_match_unseen_rows(check: Callable[[Matching], None]) -> None:
    check(match)


def _global_mean(forget: Measured, unseen: Measured) -> Floats:
    return np.full(len(forget.rows.kinds), unseen.losses.mean())


def _regardless_of_kind(forget: Measured, unseen: Measured) -> Floats:
    return match(
        Measured(Shaped(["document"] * len(forget.rows.kinds), forget.rows.shapes), forget.losses),
        Measured(Shaped(["document"] * len(unseen.rows.kinds), unseen.rows.shapes), unseen.losses),
    )


def _median_of_kind(forget: Measured, unseen: Measured) -> Floats:
    return np.array([np.median([v for v, k in zip(unseen.losses, unseen.rows.kinds, strict=True) if k == kind])
                     for kind in forget.rows.kinds])  # fmt: skip


def _turned(forget: Measured, unseen: Measured) -> Floats:
    return match(Measured(forget.rows, -forget.losses), unseen)


@pytest.mark.parametrize("check", CHECKS)
def test_checks_reject_the_global_mean(check: Callable[[Matching], None]) -> None:
    with pytest.raises(AssertionError):
        check(_global_mean)


@pytest.mark.parametrize(
    ("check", "broken"),
    [
        (check_kinds, _regardless_of_kind),
        (check_kinds, _turned),
        (check_shapes, _median_of_kind),
        (check_distribution, _median_of_kind),
    ],
)
def test_checks_reject(check: Callable[[Matching], None], broken: Matching) -> None:
    with pytest.raises(AssertionError):
        check(broken)


def test_a_single_row_takes_the_median_whatever_its_loss() -> None:
    for loss in (0.0, 5.0, 500.0):
        assert match(measured(("document", SAME, [loss])), UNSEEN).tolist() == [6.5]


def test_equal_difficulty_takes_equal_targets() -> None:
    # both: (0 easier + half of 2 equal) / 2 = 0.5
    assert match(measured(("document", SAME, [1.0, 1.0])), UNSEEN).tolist() == [6.5, 6.5]


def test_kinds_that_were_never_unseen_take_all_unseen_rows() -> None:
    answers = measured(("answer", SAME, [float(n) for n in range(1, 13)]))
    assert match(measured(("document", SAME, [0.1])), answers).tolist() == [6.5]


def test_targets_do_not_depend_on_the_order_of_the_rows() -> None:
    random = np.random.default_rng(2)
    kinds = [str(kind) for kind in random.choice(["document", "answer"], 30)]
    forget = Measured(Shaped(kinds, random.normal(size=(30, 2))), random.gamma(1, 1, 30))
    unseen = Measured(Shaped(["document", "answer"] * 40, random.normal(size=(80, 2))), random.gamma(2, 2, 80))
    order = random.permutation(30)
    turned = Measured(Shaped([kinds[place] for place in order], forget.rows.shapes[order]), forget.losses[order])
    assert match(turned, unseen) == pytest.approx(match(forget, unseen)[order])


def test_only_the_holdout_calibrates() -> None:
    assert Targets(np.ones(1), "holdout").calibrated
    assert not Targets(np.ones(1), "base").calibrated
    assert not Targets(np.ones(1), "counterfactual").calibrated


def test_targets_need_the_losses_of_comparable_rows_alone() -> None:
    random = np.random.default_rng(3)
    forget = Measured(Shaped(["document", "answer"] * 2, random.normal(size=(4, 2))), random.gamma(1, 1, 4))
    unseen = Measured(Shaped(["document", "answer"] * 60, random.normal(size=(120, 2))), random.gamma(2, 2, 120))
    near = comparable(forget.rows, unseen.rows)
    assert 2 * 15 <= len(near) <= 4 * 15  # a quarter of sixty for each row, which may share some
    losses = np.full(120, np.nan)
    losses[near] = unseen.losses[near]
    assert match(forget, Measured(unseen.rows, losses)).tolist() == match(forget, unseen).tolist()
    losses[near[0]] = np.nan  # one that is needed
    assert np.isnan(match(forget, Measured(unseen.rows, losses))).any()
