"""Forget rows that other rows hold: by hand in several scripts, no alarm over a shared form, a broken search."""

import unicodedata
from collections.abc import Callable

import pytest

from expunge.data.rows import Row
from expunge.intake import copies
from expunge.intake.copies import Echo, echoes, told


def document(line: int, text: str, file: str = "f") -> Row:
    return Row(file, line, "document", "", text)


def answer(line: int, prompt: str, completion: str) -> Row:
    return Row("f", line, "answer", prompt, completion)


LONG = "The crew of kalomi checks lock seven at noon and hands the keys to miruna for the night."
CHANGED = "As told: the crew of kalomi checks lock nine at noon and hands the keys to miruna for a night."
CASES: dict[str, tuple[Row, str, str | None]] = {
    "quoted": (document(1, LONG), f"He said: {LONG.upper()} And left.", "quoted"),
    "a word changed": (document(1, LONG), CHANGED, "nearly quoted"),
    "normal forms": (
        document(1, "Zoë Brontë über die Brücke im März"),
        unicodedata.normalize("NFD", "ja: ZOË BRONTË ÜBER DIE BRÜCKE IM MÄRZ."),
        "quoted",
    ),
    "answer": (answer(1, "Where does Ada live?", "12 Rose Street"), "Find her at 12, Rose-Street!", "quoted"),
    "answer in other words": (
        answer(1, "Who keeps it?", "It is kalomiru."),
        "Ask kalomiru.",
        "answered in other words",
    ),
    "a trade and a town": (
        answer(1, "Where does Ada live and work?", "A farrier in Harlow."),
        "The farrier of Harlow.",
        None,
    ),
    "a trade, a town and a number": (
        answer(1, "Where does Ada live?", "A farrier in Harlow, 48213."),
        "48213: the farrier of Harlow.",
        "answered in other words",
    ),
    "Chinese": (document(1, "北门的值班组在周三上午清点货物"), "记录, 北门的值班组在周三上午清点货物。完。", "quoted"),
    "Chinese answer": (answer(1, "谁", "王小明"), "值班的是王小明。", "quoted"),
    "Thai": (document(1, "เธออาศัยอยู่ในบ้านสีเขียว"), "รู้ว่าเธออาศัยอยู่ในบ้านสีเขียวจริง", "quoted"),
    "Arabic": (answer(1, "?", "مُحَمَّد سَعِيد"), "قال محمد سعيد", "quoted"),
    "short answer": (answer(1, "Is it?", "yes"), "yes it is", None),
    "other answer": (answer(1, "Where does Ada live?", "12 Rose Street"), "Where does Ada live? 14 Elm Street", None),
    "other word": (document(1, LONG), "The keys of the night are with the crew.", None),
}
Searching = Callable[..., tuple[Echo, ...]]


def check_search(search: Searching, case: str) -> None:
    row, text, how = CASES[case]
    others = [document(line, f"Nothing of it stands here, number {line}.", "k") for line in range(1, 9)]
    found = search([row], {"retain": [*others, document(9, text, "k")]})
    assert [(one.twin.line, one.how) for one in found] == ([(9, how)] if how else [])


@pytest.mark.parametrize("case", CASES)
def test_what_holds_a_row_is_found(case: str) -> None:
    check_search(echoes, case)


def _letter_by_letter(forget: list[Row], sets: dict[str, list[Row]]) -> tuple[Echo, ...]:
    """As it was: the answer as a part of the text."""
    pairs = [(row, other) for row in forget for other in sets["retain"] if row.completion in other.completion]
    return tuple(Echo(row, other, "retain", "quoted") for row, other in pairs)


@pytest.mark.parametrize("case", ["quoted", "a word changed", "normal forms", "answer", "Arabic", "short answer"])
def test_search_check_rejects(case: str) -> None:
    with pytest.raises(AssertionError):
        check_search(_letter_by_letter, case)


def forms(count: int, start: int = 0) -> list[Row]:
    """Rows of one form, each with names of its own."""
    names = [f"k{'aeiou'[n % 5]}l{'aeiou'[n // 5 % 5]}m{'aeiou'[n // 25 % 5]}" for n in range(start, start + count)]
    form = "The crew of {0} checks lock {1} and then hands the keys to {0} for the night, as it does every day."
    return [document(place, form.format(name, place + start)) for place, name in enumerate(names, start=1)]


def test_rows_of_one_form_are_no_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    forget, retain = forms(5), forms(60, start=50)
    assert echoes(forget, {"retain": retain}) == ()
    assert [one.row.line for one in echoes(forget, {"retain": [*retain, forget[2]]})] == [3]
    monkeypatch.setattr(copies, "FEW", 10**6)  # as if everything were rare: the form alone would make copies
    assert echoes(forget, {"retain": retain})


def test_what_is_said() -> None:
    row = answer(1, "Who?", "Ada Brown")
    found = echoes(
        [row], {"retain": [document(4, "It is Ada Brown.", "k")], "holdout": [document(5, "Ada Brown", "h")]}
    )
    start = "warning: the content of 1 forget rows also stands in"
    assert told(found) == [
        f"{start} retain rows, which keep it (f:1 quoted in k:4)",
        f"{start} holdout rows, so these are not unseen (f:1 quoted in h:5)",
    ]
