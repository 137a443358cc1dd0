"""What every model is judged on: all rows that steer nothing, and of large sets to keep a spread."""

from itertools import pairwise

import pytest

from expunge.data.rows import Row
from expunge.data.tokens import Window
from expunge.intake.assembly import judged_of
from expunge.problem import Split


def split(name: str, count: int) -> Split:
    rows = tuple(Row(name, place, "answer", "q", str(place)) for place in range(count))
    return Split(name, rows, tuple(Window(place, (1, 2), (False, True)) for place in range(count)))


def check_judged(judged: dict[str, Split]) -> None:
    assert {name: len(one) for name, one in judged.items()} == {
        "forget": 300,
        "judging": 300,
        "retain": 256,
        "guard": 9,
    }
    lines = [row.line for row in judged["retain"].rows]
    assert (lines[0], lines[-1]) == (0, 999) and lines == sorted(set(lines)), "from the first to the last, evenly"
    gaps = {after - before for before, after in pairwise(lines)}
    assert gaps <= {3, 4}
    assert [window.row for window in judged["retain"].windows] == list(range(256))


SPLITS = {"forget": 300, "judging": 300, "retain": 1000, "guard": 9, "unseen": 20, "counterfactual": 20}


def test_of_large_sets_to_keep_a_spread_is_judged() -> None:
    check_judged(judged_of({name: split(name, count) for name, count in SPLITS.items()}, 256))


@pytest.mark.parametrize("most", [None, 255, 2000])
def test_another_number_would_be_seen(most: int | None) -> None:
    with pytest.raises(AssertionError):
        check_judged(judged_of({name: split(name, count) for name, count in SPLITS.items()}, most))
