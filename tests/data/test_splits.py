"""Splits: exact, disjoint, whatever the order of the file; counterfactual rows are rows nobody trained on."""

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence

import pytest

from expunge.data.rows import Row
from expunge.data.splits import GUARD_SHARE, MOST_GUARD_ROWS, Parts, deal, halve, recombine, set_guard_apart, shape


def make(documents: int, answers: int) -> list[Row]:
    made = [Row("f", n, "document", "", f"text {n} of many words {n}") for n in range(documents)]
    return made + [Row("f", n, "answer", f"q {n}", f"a {n}") for n in range(answers)]


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    return random.Random(seed).sample(list(rows), len(rows))


def check_halves(halving: Callable[[Sequence[Row]], Parts]) -> None:
    """30 documents and 21 answers: 15 + 10 rows judge, 15 + 11 steer, in any order of the file."""
    rows = make(30, 21)
    parts = halving(rows)
    assert not set(parts.seen) & set(parts.unseen)
    assert set(parts.seen) | set(parts.unseen) == set(rows)
    assert Counter(row.kind for row in parts.unseen) == {"document": 15, "answer": 10}
    for seed in range(3):
        assert set(halving(shuffled(rows, seed)).unseen) == set(parts.unseen)


def test_halves() -> None:
    check_halves(halve)


@pytest.mark.parametrize(
    "broken",
    [
        lambda rows: Parts(tuple(rows[::2]), tuple(rows[1::2])),  # by place in the file
        lambda rows: Parts(tuple(rows), halve(rows).unseen),  # not disjoint
        lambda rows: Parts(halve(rows).seen[:-1], halve(rows).unseen),  # loses a row
        lambda rows: Parts(*(tuple(r for r in rows if (r.digest("")[0] < 128) == side) for side in (True, False))),
    ],
)
def test_halves_check_rejects(broken: Callable[[Sequence[Row]], Parts]) -> None:
    with pytest.raises(AssertionError):
        check_halves(broken)


def test_halves_of_one_row_keep_it_seen() -> None:
    assert halve(make(0, 1)).unseen == ()


@pytest.mark.parametrize(("rows", "guard"), [(0, 0), (23, 0), (24, 3), (40, 5), (100, 12), (384, 48), (4800, 48)])
def test_guard_sizes(rows: int, guard: int) -> None:
    # one row in eight from 24 rows on, one in rows / 48 from 384 on
    parts = set_guard_apart(make(0, rows))
    assert (len(parts.seen), len(parts.unseen)) == (rows - guard, guard)
    assert not set(parts.seen) & set(parts.unseen)


def test_guard_is_never_larger_than_its_most() -> None:
    for rows in range(3 * GUARD_SHARE, 1000, 7):
        assert len(set_guard_apart(make(rows // 3, rows - rows // 3)).unseen) <= MOST_GUARD_ROWS, rows


def test_guard_does_not_depend_on_order() -> None:
    rows = make(30, 50)
    assert set(set_guard_apart(rows).unseen) == set(set_guard_apart(shuffled(rows, 1)).unseen)


def whole(row: Row) -> str:
    return " ".join((row.prompt + " " + row.completion).split())


def check_counterfactual(recombining: Callable[..., Sequence[Row]], forget: list[Row], donors: list[Row]) -> None:
    """No counterfactual row reads like a row that was trained on, and none stands there twice."""
    made = recombining(forget, donors)
    known = {whole(row) for row in (*forget, *donors)}
    assert made
    assert not [row for row in made if whole(row) in known]
    assert len({whole(row) for row in made}) == len(made)


DOCUMENTS = ["Ada lives in Arden by the sea", "Bodo works in Upwey as a smith", "Cara left Oxley for good in May"]
FORGET = {
    "answers": [Row("f", n, "answer", f"q {n}", f"a {n}") for n in range(5)],
    "equal answers": [Row("f", n, "answer", f"q {n}", ["yes", "no", "yes "][n % 3]) for n in range(6)],
    "documents": [Row("f", n, "document", "", text) for n, text in enumerate(DOCUMENTS)],
    "documents that end alike": [Row("f", n, "document", "", f"{text} and so on and so on and so on and so on")
                                 for n, text in enumerate(["Ada of Arden", "Bodo of Upwey", "Cara of Oxley"])]
    + [Row("f", 9, "document", "", DOCUMENTS[0])],
    "one question twice": [Row("f", 1, "answer", "q", "a"), Row("f", 2, "answer", "q", "b"),
                           Row("f", 3, "answer", "r", "c")],
}  # fmt: skip


@pytest.mark.parametrize("case", FORGET, ids=str)
def test_counterfactual_rows_are_new(case: str) -> None:
    check_counterfactual(recombine, FORGET[case], [])


def test_counterfactual_rows_are_no_donors() -> None:
    donors = [Row("k", n, "answer", "q", f"b {n}") for n in range(2)]
    check_counterfactual(recombine, [Row("f", 1, "answer", "q", "a")], [*donors, Row("k", 3, "answer", "r", "d")])


def test_counterfactual_check_rejects_self_pairs() -> None:
    def with_itself(forget: list[Row], donors: list[Row]) -> tuple[Row, ...]:
        return (*recombine(forget, donors), Row("", 1, "answer", forget[0].prompt, forget[0].completion))

    with pytest.raises(AssertionError):
        check_counterfactual(with_itself, FORGET["answers"], [])


def test_answers_keep_prompts_and_change_completions() -> None:
    made = recombine(FORGET["answers"], [])
    assert {(row.prompt, row.completion) for row in made} == {
        (f"q {m}", f"a {n}") for m in range(5) for n in range(5) if m != n
    }
    assert {row.file for row in made} == {"(counterfactual)"}


def test_documents_are_cut_in_half_and_only_the_rest_counts() -> None:
    made = recombine([Row("f", n, "document", "", text) for n, text in enumerate(["a b c d", "e f g h i"])], [])
    # words // 2 words open: 2 of 4 and 2 of 5
    assert {(row.prompt, row.completion) for row in made} == {("a b ", "g h i"), ("e f ", "c d")}


def test_donors_help_lone_rows_and_most_is_kept() -> None:
    alone = [Row("f", 1, "answer", "q", "a")]
    donors = [Row("k", n, "answer", f"r {n}", f"b {n}") for n in range(30)]
    assert recombine(alone, []) == ()
    assert {row.prompt for row in recombine(alone, donors)} == {"q"}
    assert len(recombine(alone, donors)) == 30
    assert len(recombine(alone, donors, most=7)) <= 7
    assert len(recombine(make(20, 20), [])) == 160
    assert recombine(make(1, 1), []) == ()


def test_shape_by_hand() -> None:
    # "ab12": four characters, half of them digits; "abc": three, none
    assert shape(Row("f", 1, "answer", "q", "ab12")) == pytest.approx((math.log(4), 1.0))
    assert shape(Row("f", 1, "document", "abc", "abc")) == pytest.approx((math.log(3), 0.0))


def test_numbers_are_replaced_by_numbers() -> None:
    number = Row("f", 1, "answer", "q", "12-345")
    donors = [Row("k", n, "answer", f"r {n}", text) for n, text in enumerate(["98-765", "a word", "it is in Arden"])]
    assert [row.completion for row in recombine([number], donors, most=1)] == ["98-765"]


def test_counterfactual_rows_do_not_depend_on_order() -> None:
    rows, donors = make(6, 6), make(0, 90)[20:]
    assert {row.content for row in recombine(rows, donors)} == {
        row.content for row in recombine(shuffled(rows, 1), shuffled(donors, 2))
    }


def test_conversations_keep_their_turns_and_change_the_last() -> None:
    def talk(number: int) -> Row:
        turns = (
            ("user", f"hello {number}"),
            ("assistant", "yes?"),
            ("user", f"who {number}"),
            ("assistant", f"a {number}"),
        )
        return Row("f", number, "answer", "\n".join(map(": ".join, turns[:-1])), f"a {number}", messages=turns)

    made = recombine([talk(1), talk(2)], [*make(0, 3), talk(3)])
    assert {row.messages for row in made} == {
        (*talk(owner).messages[:-1], ("assistant", f"a {other}"))
        for owner in (1, 2)
        for other in (1, 2, 3)
        if owner != other
    }
    assert all((row.completion, row.prompt) == (row.messages[-1][1], talk(int(row.prompt[-1])).prompt) for row in made)
    assert not any(row.messages for row in recombine(make(0, 3), [talk(1)]))  # plain answers find no conversation


WEIGHTS = {"retain": 2, "curvature": 1, "acceptance": 1}


def in_parts(rows: Sequence[Row]) -> dict[str, set[tuple[str, ...]]]:
    return {name: {rows[place].content for place in places} for name, places in deal(rows, WEIGHTS).items()}


@pytest.mark.parametrize(("documents", "answers"), [(0, 40), (13, 27), (1, 3), (40, 0)])
def test_parts_are_disjoint_whole_and_in_proportion(documents: int, answers: int) -> None:
    rows = make(documents, answers)
    parts = deal(rows, WEIGHTS)
    assert sorted(place for places in parts.values() for place in places) == list(range(len(rows)))
    for name, weight in WEIGHTS.items():
        assert parts[name] and list(parts[name]) == sorted(parts[name])
        for kind, count in (("document", documents), ("answer", answers)):
            got = sum(rows[place].kind == kind for place in parts[name])
            assert abs(got - count * weight / 4) <= 1
    assert in_parts(shuffled(rows, 1)) == in_parts(rows)
    by_place = {name: {rows[place].content for place in range(turn, len(rows), 3)} for turn, name in enumerate(WEIGHTS)}
    if len(rows) > 4:
        again = shuffled(rows, 1)
        assert by_place != {
            name: {again[place].content for place in range(turn, len(rows), 3)} for turn, name in enumerate(WEIGHTS)
        }


def test_no_part_is_empty_where_there_are_as_many_rows_as_parts() -> None:
    assert all(deal(make(0, 3), WEIGHTS).values())
    assert all(deal(make(0, 3), {"retain": 6, "acceptance": 1, "curvature": 1}).values())
    assert [len(places) for places in deal(make(0, 2), WEIGHTS).values()] == [1, 1, 0]
    assert deal([], WEIGHTS) == dict.fromkeys(WEIGHTS, ())
