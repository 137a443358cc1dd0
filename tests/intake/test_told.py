"""What is said before a run of rows that cannot be judged after it."""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from expunge.intake import told
from problems import rows_of


def said(forget: Any, judging: Any) -> list[str]:
    checked: Any = SimpleNamespace(forget=forget, parts={"judging": judging} if judging else {})
    return list(told.untold(checked))


def rows(name: str, answers: int, documents: int) -> Any:
    texts = [f"{name} is number {place}" for place in range(documents)]
    return rows_of(name, [f"{name} {place}" for place in range(answers)], texts)


def test_forget_rows_that_training_never_held_are_counted() -> None:
    forget, other = rows("forget", 3, 0), rows("other", 2, 0)

    def lines(*trained: Any) -> list[str]:
        sets = {"forget": SimpleNamespace(rows=forget)} | ({"train": SimpleNamespace(rows=trained)} if trained else {})
        return list(told.outside_training(cast(Any, SimpleNamespace(sets=sets, forget=forget))))

    assert lines() == [] == lines(*forget, *other)
    assert lines(*other, forget[0])[0].startswith("warning: 2 of 3 forget rows are not in --train")


@pytest.mark.parametrize(("answers", "documents", "lacking"), [(19, 19, []), (18, 19, ["answers"]), (18, 3, None)])
def test_each_kind_that_has_too_few_is_named(answers: int, documents: int, lacking: list[str] | None) -> None:
    found = said(rows("forget", 2, 1), rows("judging", answers, documents))
    assert len(found) == (2 if lacking is None else len(lacking))
    if lacking:
        assert found[0].startswith("warning: 2 answers to forget, and 18 that the model never saw") and "38" in found[0]


def test_a_kind_that_nobody_asks_for_needs_none() -> None:
    assert said(rows("forget", 3, 0), rows("judging", 40, 0)) == []


def test_without_any_all_are_named() -> None:
    documents, answers = said(rows("forget", 2, 1), ())
    assert "1 documents to forget, and 0 that" in documents and "2 answers to forget, and 0 that" in answers
