"""The course of an attempt on made checks."""

import numpy as np
import pytest

from expunge.optim.course import RAISE, SETTLE, Course
from expunge.optim.stopping import Check


def check(step: int, way: float) -> Check:
    """Four rows that start at 0 and have target 4, all at one share of the way."""
    start, targets = np.zeros(4), np.full(4, 4.0)
    return Check(step, way * targets, start, targets, None, None, None, None)


def test_settles_when_the_rows_have_arrived_and_ends_a_quarter_of_the_steps_later() -> None:
    course = Course(1e-3, 100)
    course.see(check(20, 0.5))
    assert course.end == 100 and course.rate_at(50) == 1e-3
    course.see(check(40, 0.95))
    assert course.end == 40 + 25
    assert course.pressure == SETTLE
    assert course.rate_at(40) == 1e-3 and course.rate_at(52) == pytest.approx(1e-3 * 13 / 25)
    assert course.rate_at(64) == pytest.approx(1e-3 * 1 / 25)


def test_the_rate_rises_only_while_the_rows_do_not_move() -> None:
    course = Course(1e-3, 100)
    course.see(check(10, 0.0))
    assert course.rate == 1e-3  # patience
    course.see(check(30, 0.0))
    assert course.rate == pytest.approx(1e-3 * RAISE)
    course.see(check(31, 0.0))
    assert course.rate == pytest.approx(1e-3 * RAISE)  # the next look is later
    course.see(check(50, 0.3))
    assert course.rate == pytest.approx(1e-3 * RAISE) and course.pressure == 1.0  # they move


def test_a_rate_that_was_given_stays() -> None:
    course = Course(1e-3, 100, fixed=True)
    for step in range(25, 75, 10):
        course.see(check(step, 0.0))
    assert course.rate == 1e-3


def test_the_pressure_rises_where_the_rows_stall_on_their_way() -> None:
    course = Course(1e-3, 100)
    course.see(check(30, 0.5))
    assert course.pressure == 1.0  # the first look has nothing to compare with
    course.see(check(45, 0.51))
    assert course.pressure == pytest.approx(RAISE) and course.rate == 1e-3


def test_a_repair_travels_in_full_under_the_pressure_of_settling() -> None:
    course = Course(1e-3, 100, repairs=True)
    course.see(check(4, 1.0))
    assert course.end == 100 and course.pressure == SETTLE
    assert course.rate_at(74) == 1e-3 and course.rate_at(88) == pytest.approx(1e-3 * 12 / 25, rel=0.05)


def test_warm_up() -> None:
    course = Course(6e-3, 100)
    assert [round(course.rate_at(step), 6) for step in (0, 2, 5, 6)] == [1e-3, 3e-3, 6e-3, 6e-3]
