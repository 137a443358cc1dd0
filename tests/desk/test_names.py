"""Names are found in whatever form a text writes them, and nowhere else."""

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest

from expunge.desk import names
from expunge.errors import InputError
from expunge.scoring.words import words

FOUND = [
    ("Jane Doe", "I spoke to JANE\n DOE, today"),
    ("Jane Doe", "write to jane.doe@example.com"),
    ("Jane Doe", "Doe, Jane (customer)"),
    ("José Núñez", unicodedata.normalize("NFD", "Für José Núñez.")),
    ("Straße", "in der STRASSE"),
    ("O'Brien", "Mr O\u2019Brien's order"),
    ("山田太郎", "昨日、山田太郎さんが来た"),
    ("สมชาย", "คุณสมชายโทรมา"),
    ("김철수", "김철수는 학생이다"),
    ("Jane Doe", "\uff2a\uff21\uff2e\uff25\u3000\uff24\uff2f\uff25"),
    ("محمد علي", "قال مُحَمَّد عَلي"),
]
NOT_FOUND = [
    ("Jane Doe", "Janet Doe and Jane Doering"),
    ("Jane Doe", "Jane met Mr Doe"),
    ("Ann", "announced by Hannah"),
    ("山田太郎", "山田花子と太郎"),
]
Within = Callable[[str, str], bool]


def within(name: str, text: str) -> bool:
    return bool(names.Names.of([(name, "here")]).within(words(text)))


def check(found: Within) -> None:
    assert all(found(name, text) for name, text in FOUND)
    assert not any(found(name, text) for name, text in NOT_FOUND)


def test_names_are_found_in_every_form() -> None:
    check(within)


@pytest.mark.parametrize(
    "broken",
    [
        lambda name, text: name in text,
        lambda name, text: name.casefold() in text.casefold(),
        lambda name, text: set(words(name)) <= set(words(text)),
        lambda name, text: "".join(words(name)) in "".join(words(text)),
    ],
)
def test_the_check_rejects_other_ways_to_look(broken: Within) -> None:
    with pytest.raises(AssertionError):
        check(broken)


def test_names_come_from_a_file_and_are_told_by_their_place(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    file.write_text("\nJane Doe\n\nMüller\n", encoding="utf-8")
    found = names.read(["Max"], str(file))
    assert found.within(words("Muller saw jane doe")) == [f"{file}, line 2", f"{file}, line 4"]
    assert found.within(words("max")) == ["--mentions 1"]


@pytest.mark.parametrize(("text", "said"), [("\n \n", "holds none"), ("Jane Doe\n-\n", "line 2: a name of fewer")])
def test_files_that_say_nothing_are_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "names.txt").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        names.read((), str(tmp_path / "names.txt"))


def test_every_text_of_a_record_is_looked_at() -> None:
    record = {"a": "x", "b": [{"content": "y", "n": None}], "c": 4711, "d": {"e": True, "f": 1.5}}
    assert list(names.texts(record)) == ["x", "y", "4711", "1.5"]
