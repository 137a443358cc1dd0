"""Fictional people: seeded, with distinct names, and every fact of a person stands in their document."""

import re
from collections import Counter

import pytest

from expunge.data import fiction
from expunge.data.tokens import Rendering, encode


def test_people_follow_their_seed() -> None:
    assert fiction.people(30, 1) == fiction.people(30, 1)
    assert fiction.people(30, 1) != fiction.people(30, 2)


def test_names_are_distinct_up_to_the_last_one() -> None:
    most = len(fiction.FIRST) * len(fiction.LAST)
    assert len({person.name for person in fiction.people(most, 0)}) == most
    with pytest.raises(ValueError, match=str(most)):
        fiction.people(most + 1, 0)


def test_rows_tell_what_the_person_is() -> None:
    group = fiction.people(40, 3)
    made = fiction.rows(group, "made.jsonl")
    assert Counter(row.kind for row in made) == {"document": 40, "answer": 160}
    assert [row.line for row in made] == list(range(1, 201))
    assert len({row.content for row in made}) == 200
    assert {person.template for person in group} == set(range(len(fiction.DOCUMENTS)))
    for place, person in enumerate(group):
        document, *answers = made[5 * place : 5 * place + 5]
        facts = (person.name, person.key, person.phone, person.born, person.city, person.trade)
        assert all(fact in document.completion for fact in facts)
        assert [row.completion for row in answers][:3] == [person.key, person.phone, person.born]
        assert all(person.name in row.prompt for row in answers)
        assert re.fullmatch(r"[A-Z]{2}-\d{6}", person.key) and re.fullmatch(r"555-\d{3}-\d{4}", person.phone)


def test_keys_are_independent_of_names() -> None:
    keys = [person.key for person in fiction.people(500, 0)]
    assert len(set(keys)) == 500
    shares = [sum(key[place] == "7" for key in keys) / 500 for place in range(3, 9)]
    assert all(0.05 < share < 0.16 for share in shares)  # a tenth, and four standard errors (0.013 each)


def test_rows_fit_the_pipeline(tokenizer: object) -> None:
    made = fiction.rows(fiction.people(3, 0), "made.jsonl")
    assert len(encode(made, Rendering(), tokenizer)) == 15
