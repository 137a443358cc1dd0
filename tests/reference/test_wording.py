"""The n-gram of other rows by hand, and what it says of rows of one form."""

import math

import pytest

from expunge.data.tokens import Window
from expunge.reference import wording
from expunge.reference.wording import margins


def window(*ids: int, prompt: int = 0) -> Window:
    """Of which the first counts for nothing, as of any row, nor does a prompt."""
    return Window(0, ids, tuple(place > max(0, prompt - 1) for place in range(len(ids))))


def p(found: float) -> float:
    return 1 / (1 + math.exp(-found))


def test_witten_bell_by_hand() -> None:
    """After 1 came 2, 2 and 3; of 5 tokens in all (2, 2, 3 and what follows them) the vocabulary has 10."""
    others = [window(1, 2), window(1, 2), window(1, 3)]
    # no context: 2 twice, 3 once, two kinds: (2 + 2 / 10) / (3 + 2); after 1: (2 + 2 * that) / (3 + 2)
    least = (2 + 2 / 10) / 5
    assert p(float(margins([window(1, 2)], others, 10)[0])) == pytest.approx((2 + 2 * least) / 5)
    never = 2 * (1 / 10) / 5  # 7 was never there
    assert p(float(margins([window(1, 7)], others, 10)[0])) == pytest.approx(2 * never / 5)


def test_what_stands_before_in_the_row_is_foretold() -> None:
    """The name of the prompt, 7 8, taken up in the answer; and not the first time (the broken variant counts ahead)."""
    others = [window(1, 9, 2, 3, 9, 4, 5)] * 20
    found = margins([window(1, 7, 8, 2, 3, 7, 8, 4, 5, prompt=4)], others, 100)
    first, second = p(float(found[1])), p(float(found[2]))
    assert second > first
    assert second > 0.5
    alone = margins([window(1, 6, 2, 3, 7, 8, 4, 5, prompt=3)], others, 100)
    assert p(float(alone[1])) < 0.1 and p(float(alone[2])) < 0.1


def test_only_the_secret_is_the_rows_own() -> None:
    """Forms 1 to 6 with a secret of two tokens in the middle, other ones in other rows."""
    others = [window(1, 2, 3, 10 + n, 40 + n, 4, 5, 6) for n in range(20)]
    found = margins([window(1, 2, 3, 35, 65, 4, 5, 6)], others, 100).tolist()
    form, secret = [found[0], found[1], found[5], found[6]], found[2:4]
    assert min(form) > 2 and max(secret) < -4


def test_no_other_rows_say_nothing() -> None:
    assert p(float(margins([window(1, 2)], [], 10)[0])) == pytest.approx(0.1)


def test_of_many_rows_some_are_counted_from_all_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 40 tokens 10: every fourth row, three of the first form and two of the last."""
    others = [window(1, 2)] * 10 + [window(1, 3)] * 10
    monkeypatch.setattr(wording, "MOST", 10)
    found = margins([window(1, 2), window(1, 3)], others, 10).tolist()
    assert found[0] == pytest.approx(found[1], abs=1.0)
