"""Stopping: arithmetic on hand-made checks."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from expunge.optim.stopping import Check


def made(
    forget: Sequence[float],
    start: Sequence[float],
    targets: Sequence[float] | None,
    retain: tuple[float, float] | None = None,
    guard: tuple[float, float] | None = None,
) -> Check:
    """`retain` and `guard` are (start, now)."""
    aims = None if targets is None else np.array(targets, dtype=float)
    return Check(
        step=7,
        forget=np.array(forget, dtype=float),
        start=np.array(start, dtype=float),
        targets=aims,
        retain=retain and retain[1],
        retain_start=retain and retain[0],
        guard=guard and guard[1],
        guard_start=guard and guard[0],
    )


# Loss now, at the start, target, way.
WAYS = [
    (0.0, 0.0, 4.0, 0.0),
    (1.0, 0.0, 4.0, 0.25),
    (4.0, 0.0, 4.0, 1.0),
    (5.0, 0.0, 4.0, 1.25),  # beyond
    (-1.0, 0.0, 4.0, -0.25),  # the wrong way
    (6.0, 6.0, 4.0, 0.0),  # starts above its target: goes down
    (5.0, 6.0, 4.0, 0.5),
    (4.0, 6.0, 4.0, 1.0),
    (3.0, 6.0, 4.0, 1.5),
    (7.0, 6.0, 4.0, -0.5),
    (4.0, 4.0, 4.0, 1.0),  # nowhere to go
    (4.05, 4.0, 4.0, 1.5),  # its distance counts in tenths of a nat
    (4.0, 3.95, 4.0, 1.0),
    (3.95, 3.95, 4.0, 0.5),  # 0.05 short of the target, over 0.1
]


def check_way(way: Callable[[Check], np.ndarray]) -> None:
    now, start, targets, wanted = zip(*WAYS, strict=True)
    assert way(made(now, start, targets)) == pytest.approx(wanted)


def test_way_by_hand() -> None:
    check_way(Check.way)


@pytest.mark.parametrize(
    "broken",
    [
        lambda check: (check.forget - check.start) / np.maximum(np.abs(check.targets - check.start), 0.1),  # no sign
        lambda check: 1 - np.abs(check.targets - check.forget) / np.maximum(np.abs(check.targets - check.start), 0.1),
        lambda check: check.forget / check.targets,
    ],
)
def test_way_check_rejects(broken: Callable[[Check], np.ndarray]) -> None:
    with pytest.raises(AssertionError):
        check_way(broken)


def along(ways: Sequence[float], start: float = 0.0, target: float = 2.0) -> Check:
    """Rows that have gone these shares of their way."""
    return made([start + way * (target - start) for way in ways], [start] * len(ways), [target] * len(ways))


@pytest.mark.parametrize(("start", "target"), [(0.0, 2.0), (6.0, 4.0)])
@pytest.mark.parametrize(
    ("ways", "travelled", "arrived"),
    [
        ([0.0] * 4, False, False),
        ([1.0] * 4, True, True),
        ([0.81, 0.95, 0.95, 1.0], True, True),  # quartile 0.915, median 0.95
        ([0.5, 0.5, 1.0, 1.0], False, False),  # a quarter of the rows is below 0.75
        ([0.85] * 4, False, False),  # the typical row is short by 0.15
        ([1.15] * 4, True, False),  # and here beyond
        ([0.5, *[1.0] * 6], True, True),  # 6 of 7 near: 0.857
        ([0.5, *[1.0] * 5], True, False),  # 5 of 6: 0.833
        ([1.5, *[1.0] * 5], True, False),  # beyond is as wrong as short
        ([0.92, 0.92, 1.6, 1.6], True, False),
    ],
)
def test_travelled_and_arrived(ways: list[float], travelled: bool, arrived: bool, start: float, target: float) -> None:
    check = along(ways, start, target)
    assert (check.travelled(), check.arrived()) == (travelled, arrived)


def test_rows_on_their_target_have_arrived_from_the_start() -> None:
    assert along([1.0, 1.0], start=2.0, target=2.0).arrived()


@pytest.mark.parametrize(
    ("retain", "back"),
    [((0.5, 0.5), True), ((0.5, 0.45), True), ((0.5, 0.519), True), ((0.5, 0.521), False), (None, True)],
)
def test_retain_is_back_within_its_slack(retain: tuple[float, float] | None, back: bool) -> None:
    assert made([1.0], [0.0], [1.0], retain=retain).retain_back() is back  # 0.02 nats; 0.01 of the way is less


def test_retain_slack_grows_with_the_way() -> None:
    assert made([1.0], [0.0], [4.0], retain=(0.5, 0.539)).retain_back()  # 0.01 * 4 = 0.04
    assert not made([1.0], [0.0], [4.0], retain=(0.5, 0.541)).retain_back()


@pytest.mark.parametrize(
    ("targets", "guard", "hurts"),
    [
        ([4.0, 4.0, 100.0], (0.5, 1.49), False),  # median way 4, a quarter of it is 1
        ([4.0, 4.0, 100.0], (0.5, 1.51), True),
        ([0.1, 0.1, 0.1], (0.5, 0.59), False),  # never below 0.1 nats
        ([0.1, 0.1, 0.1], (0.5, 0.61), True),
        ([-2.0, -2.0, -2.0], (0.5, 0.55), False),  # targets below the start
        ([-2.0, -2.0, -2.0], (0.5, 0.65), True),
        ([4.0, 4.0, 4.0], (1.5, 0.5), False),  # the guard got better
        ([4.0, 4.0, 4.0], None, False),
        (None, (0.5, 0.61), True),  # a method without targets
    ],
)
def test_hurts(targets: list[float] | None, guard: tuple[float, float] | None, hurts: bool) -> None:
    assert made([0.0] * 3, [0.0] * 3, targets, guard=guard).hurts() is hurts


def test_figures() -> None:
    check = made([1.0, 3.0], [0.0, 0.0], [1.0, 1.0], retain=(0.1, 0.2))
    # ways 1 and 3: one of two rows is near
    assert check.figures() == {
        "step": 7, "forget": 2.0, "target": 1.0, "arrived": 0.5, "retain": 0.2, "guard": None
    }  # fmt: skip
    assert made([1.0], [0.0], None).figures()["arrived"] is None


def test_acceptance_rows_steer_in_place_of_the_guard() -> None:
    """The guard then only reports: it neither hurts nor counts in the score."""
    check = made([4.0] * 4, [0.0] * 4, [4.0] * 4, guard=(1.0, 9.0))
    assert check.hurts() and check.score() == pytest.approx(8.0) and "guard rows" in check.reason()
    accepted = replace(check, acceptance=1.1, acceptance_start=1.0)
    assert not accepted.hurts() and accepted.score() == pytest.approx(0.1) and "at their targets" in accepted.reason()
    assert accepted.figures()["guard"] == 9.0 and accepted.figures()["acceptance"] == 1.1
    harmed = replace(made([4.0] * 4, [0.0] * 4, [4.0] * 4, guard=(1.0, 1.0)), acceptance=9.0, acceptance_start=1.0)
    assert harmed.hurts() and "acceptance rows" in harmed.reason()
