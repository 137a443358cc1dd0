"""Differences of what is seen, and their 90 % intervals, by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from expunge.scoring import seen
from expunge.scoring.seen import Interval, Seen, apart, averaged, nothing, paired

NAN = float("nan")


def rows(loss: Sequence[float], known: Sequence[float] | None = None, kinds: str = "answer") -> Seen:
    return Seen((kinds,) * len(loss), np.array(loss), np.array(known if known is not None else [NAN] * len(loss)))


def near(found: Interval | None, value: float, low: float, high: float, count: int) -> bool:
    assert found is not None
    return (found.value, found.low, found.high) == pytest.approx((value, low, high), abs=1e-3) and found.count == count


def check_paired(function: Callable[..., Any]) -> None:
    """Differences 1, 2, 3, without the row that has none: mean 2, standard deviation 1, t(2) = 2.920.

    Known: 1, 0, 0 of three, z^2 = 2.706: centre 1 / 5.706, half 1.645 sqrt(2 / 3 + 2.706) / 5.706.
    """
    half = 2.920 / np.sqrt(3)
    mine, other = rows([2.0, 4.0, 6.0, NAN], [1, 1, 0, 1]), rows([1.0, 2.0, 3.0, 1.0], [0, 1, 0, NAN])
    assert near(function(mine, other, "loss"), 2.0, 2 - half, 2 + half, 3)
    half = 1.645 * np.sqrt(2 / 3 + 2.706) / 5.706
    assert near(function(mine, other, "known"), 1 / 3, 1 / 5.706 - half, 1 / 5.706 + half, 3)


def check_apart(function: Callable[..., Any]) -> None:
    """1 and 3 against 4 and 8: means 2 and 6, squared errors 1 and 4, freedom 25 / (1 + 16), t = 4.176.

    Known: 0 of two and 2 of two: shrunk by z^2 rows to 1.353 / 4.706 and 3.353 / 4.706.
    """
    mine, other = rows([1.0, 3.0], [0, 0]), rows([4.0, 8.0], [1, 1])
    half = float(seen.t.ppf(0.95, 25 / 17)) * np.sqrt(5)
    assert near(function(mine, other, "loss"), -4.0, -4 - half, -4 + half, 2)
    half = 1.645 * np.sqrt(2 * 2.706 / 4) / 4.706
    assert near(function(mine, other, "known"), -1.0, -2 / 4.706 - half, -2 / 4.706 + half, 2)


def test_by_hand() -> None:
    check_paired(paired)
    check_apart(apart)


def _other_way(function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda mine, other, figure: function(other, mine, figure)


def _as_95(function: Callable[..., Any]) -> Callable[..., Any]:
    def wider(mine: Seen, other: Seen, figure: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(seen, "UPPER", 0.975)
            return function(mine, other, figure)

    return wider


@pytest.mark.parametrize("broken", [_other_way, _as_95])
@pytest.mark.parametrize(("check", "function"), [(check_paired, paired), (check_apart, apart)])
def test_broken_ones_are_rejected(check: Callable[..., None], function: Any, broken: Any) -> None:
    with pytest.raises(AssertionError):
        check(broken(function))


def test_kinds_are_compared_apart() -> None:
    """Three answers differ by 1 and one kind has nothing to compare with: it is left out, not mixed in."""
    mine = Seen(("answer", "answer", "answer", "document"), np.array([1.0, 1.1, 0.9, 9.0]), np.full(4, NAN))
    found = apart(mine, rows([2.0, 2.1, 1.9]), "loss")
    assert found is not None and found.value == pytest.approx(-1.0) and found.count == 3
    assert apart(mine, rows([2.0, 2.1], kinds="document"), "loss") is None
    assert paired(rows([1.0]), rows([1.0]), "loss") is None


def test_few_misses_prove_little_and_many_much() -> None:
    """No row is given back by either: within a tenth from 25 rows on."""
    for count, within in ((24, False), (25, True)):
        none = rows([NAN] * count, [0.0] * count)
        found = paired(none, none, "known")
        assert found is not None and (found.high <= 0.1) == within


def test_intervals_cover_what_they_should() -> None:
    """Of 400 pairs of groups that differ by 0.5 the interval holds that in about nine of ten."""
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        found = apart(rows(draw.normal(1.5, 1, 20).tolist()), rows(draw.normal(1.0, 2, 15).tolist()), "loss")
        assert found is not None
        held += found.low <= 0.5 <= found.high
    assert 0.86 <= held / 400 <= 0.94


def test_parts_are_put_together() -> None:
    one, other = rows([1.0, NAN, 2.0], [0, NAN, 1]), rows([3.0, 4.0, NAN], [1, 1, NAN])
    both = averaged([one, other])
    assert both.loss.tolist() == [2.0, 4.0, 2.0] and both.known.tolist() == [0.5, 1.0, 1.0]
    assert np.isnan(averaged([nothing(["answer"]), nothing(["answer"])]).loss).all()
    placed = nothing(one.kinds).at([2], np.array([5.0]), np.array([1.0]))
    assert np.isnan(placed.loss[:2]).all() and placed.loss[2] == 5.0
    assert np.isnan(one.loss[1]) and replace(one).loss[0] == 1.0  # what was put together stays as it was
