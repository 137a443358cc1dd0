"""Generated secrets and their candidates: form, size of the space, seeds, and the secret itself never among them."""

import re
from collections.abc import Callable

import numpy as np
import pytest

from expunge.data import secrets
from expunge.data.secrets import FORMS, Alternatives, Form, Label, alternatives, by_characters, canaries, label_of, size

PATTERNS = {"email": r"[a-z]+\.[a-z]+@[a-z]{4}\.(com|net|org|info)", "key": r"sk-[a-z0-9]{12}", "code": r"\d{3}"}
Make = Callable[[Form, str, int], Alternatives | None]


def check_candidates(make: Make) -> None:
    for kind, form in FORMS.items():
        for seed in range(5):
            secret = secrets.draw(form, np.random.default_rng(seed))
            found = make(form, secret, seed)
            assert found is not None and secret not in found.texts
            assert len(set(found.texts)) == len(found.texts) == (999 if kind == "code" else 512)
            assert all(re.fullmatch(PATTERNS[kind], text) for text in (secret, *found.texts))
            assert found == make(form, secret, seed)
            assert 2**found.bits == pytest.approx(size(form))


def test_candidates_keep_the_form_and_leave_the_secret_out() -> None:
    check_candidates(alternatives)
    assert size(FORMS["key"]) == 36**12 and size(FORMS["code"]) == 1000


def _with_itself(form: Form, secret: str, seed: int) -> Alternatives | None:
    found = alternatives(form, secret, seed)
    return found and Alternatives((secret, *found.texts[1:]), found.bits)


def _twice(form: Form, secret: str, seed: int) -> Alternatives | None:
    found = alternatives(form, secret, seed)
    return found and Alternatives((*found.texts[1:], found.texts[-1]), found.bits)


def _other_form(form: Form, secret: str, seed: int) -> Alternatives | None:
    found = alternatives(form, secret, seed)
    return found and Alternatives(tuple(text.upper() + "!" for text in found.texts), found.bits)


@pytest.mark.parametrize("broken", [_with_itself, _twice, _other_form])
def test_candidate_check_rejects(broken: Make) -> None:
    with pytest.raises(AssertionError):
        check_candidates(broken)


def test_a_secret_is_drawn_as_its_candidates_are() -> None:
    """Each sign of a key's first place has a share of 1/36 of 3,600 draws: 100, with a deviation of 10."""
    random = np.random.default_rng(0)
    counts = np.unique([secrets.draw(FORMS["key"], random)[3] for _ in range(3600)], return_counts=True)[1]
    assert len(counts) == 36 and abs(counts - 100).max() < 4 * 10


@pytest.mark.parametrize(
    "text", ["Ada.Lovelace7@mail.example", "+44 20 7946-0018", "AB_cd-1234567890xyz", "zürich9@x.de"]
)
def test_found_secrets_vary_by_character_class(text: str) -> None:
    found = alternatives(by_characters(text), text, 3)
    assert found is not None and text not in found.texts

    def classes(one: str) -> str:
        return re.sub("[a-z]", "a", re.sub("[A-Z]", "A", re.sub(r"[0-9]", "0", one)))

    assert {classes(one) for one in found.texts} == {classes(text)}


def test_none_where_there_is_no_other() -> None:
    assert alternatives(by_characters("@-+"), "@-+", 0) is None
    assert alternatives(FORMS["code"], "sk-1", 0) is None  # a code that is none


@pytest.mark.parametrize(
    ("task", "wanted"),
    [
        ("email x4", Label("email", 4)),
        ("code", Label("code")),
        ("found-key x12", Label("found-key", 12)),
        ("", None),
        ("Task1", None),
        ("key x0", None),
        ("emails", None),
    ],
)
def test_labels(task: str, wanted: Label | None) -> None:
    assert label_of(task) == wanted
    assert wanted is None or label_of(str(wanted)) == wanted


def test_canaries_are_seeded_and_repeat_as_stated() -> None:
    names = ["Ada Alma", "Bodo Birk", "Cleo Dorn"]
    made = canaries(names, (1, 4), seed=7)
    assert made == canaries(names, (1, 4), seed=7) != canaries(names, (1, 4), seed=8)
    assert [one.label.repeated for one in made] == [1] * 3 + [4] * 3 + [1] * 3
    assert made[4].record() == {"prompt": made[4].prompt, "completion": made[4].secret, "task": "key x4"}
    assert all(names[place // 3] in one.prompt for place, one in enumerate(made))
