"""Every row that holds or nearly equals a forget row is found, and what many rows share is no sign of anything."""

from collections.abc import Callable, Sequence

import pytest

from expunge.data.rows import Row
from expunge.intake import copies
from expunge.intake.near import Near, most_rare, near

FACT = "the silver harbour crane of Ostend was sold to captain Willem Janssen for nine hundred guilders"
THANKS = "thank you for writing to our support team and have a very nice day"
Search = Callable[[Sequence[Row], Sequence[Row]], dict[int, Near]]


def answer(line: int, prompt: str, completion: str) -> Row:
    return Row("train.jsonl", line, "answer", prompt, completion)


FORGET = [answer(1, "What was sold?", FACT), answer(2, "Anything else?", THANKS)]
OTHERS = [
    answer(10, "Tell me a story.", f"Once, {FACT}, they say."),  # holds all of it
    answer(11, "And?", "the silver harbour crane of Ostend was sold to captain Willem for a song"),  # most of it
    answer(12, "Price?", "captain Willem Janssen for nine hundred guilders"),  # a piece of it
    answer(13, "Weather?", "sunny with a light wind from the west and a little rain at night"),
    *(answer(20 + n, f"Question number {n} about parcel {n * 7}?", f"Parcel {n * 7}: {THANKS}") for n in range(24)),
    answer(40, "Anything else?", THANKS + " indeed"),  # as the second row, though many share its words
]
EXPECTED = {0: "quoted", 1: "nearly quoted", 2: "a piece of it", 28: "a piece of it"}


def check(search: Search) -> None:
    found = search(FORGET, OTHERS)
    assert {place: one.how for place, one in found.items()} == EXPECTED
    assert found[0].row is FORGET[0] and found[28].row is FORGET[1]


def test_all_rows_that_come_near_are_found() -> None:
    check(near)


def the_plainest_only(forget: Sequence[Row], rows: Sequence[Row]) -> dict[int, Near]:
    """What `copies` does: one row for each forget row."""
    found = copies.echoes(forget, {"retain": rows})
    return {rows.index(one.twin): Near(one.row, one.how) for one in found}


def common_too(forget: Sequence[Row], rows: Sequence[Row]) -> dict[int, Near]:
    needles = [needle for row in forget for needle in copies.needles(row)]
    held = [copies.grams(copies.words(row.completion)) for row in rows]
    return {p: Near(n.row, "quoted") for n in needles for p, own in enumerate(held) if n.grams <= own}


@pytest.mark.parametrize("broken", [the_plainest_only, common_too, lambda forget, rows: {}])
def test_the_check_rejects_searches_that_miss_or_take_too_much(broken: Search) -> None:
    with pytest.raises(AssertionError):
        check(broken)


def test_rare_is_one_in_a_hundred_and_twenty_in_any_case() -> None:
    assert [most_rare(count) for count in (1, 1999, 2100, 100_000)] == [20, 20, 21, 1000]


def test_a_text_that_was_pasted_often_is_found_in_all_its_forms() -> None:
    """Thirty near copies: no run of them is rare, so the rows are compared as wholes."""
    pasted = [answer(n, "Complaint:", f"{FACT} {'!' * n} and signed") for n in range(30)]
    found = near([answer(99, "Complaint:", f"{FACT} and signed")], pasted)
    assert {place: one.how for place, one in found.items()} == dict.fromkeys(range(30), "nearly the same row")
