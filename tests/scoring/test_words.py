# ruff: noqa: RUF001
"""Words of every script by hand; what is recited, known and equal in them; texts cut in half."""

import unicodedata
from collections.abc import Callable

import pytest

from expunge.scoring.matching import contains, rouge_recall
from expunge.scoring.words import halves, words

WORDS = {
    "Café CAFE\u0301 №5": ["cafe", "cafe", "no5"],
    "在周三": ["在", "周", "三"],
    "がき かき": ["が", "き", "か", "き"],
    "กินข้าว": ["กิ", "น", "ข้", "า", "ว"],
    "مُحَمَّد أحمد ٥٥": ["محمد", "احمد", "55"],
    "की का": ["की", "का"],
    "서울에서": ["서", "울", "에", "서"],
    "iPhone手机15日": ["iphone", "手", "机", "15", "日"],
    "می\u200cخواهم": ["میخواهم"],
    "a-b_c": ["a", "b", "c"],
}
Splitting = Callable[[str], list[str]]


def check_words(split: Splitting) -> None:
    for text, expected in WORDS.items():
        for form in ("NFC", "NFD", "NFKC", "NFKD"):
            assert split(unicodedata.normalize(form, text)) == [unicodedata.normalize("NFC", one) for one in expected]


def _without_marks(text: str) -> list[str]:
    plain = unicodedata.normalize("NFKD", text).casefold()
    return words("".join(sign for sign in plain if not unicodedata.combining(sign)))


def test_words_by_hand() -> None:
    check_words(words)
    for broken in (str.split, _without_marks, lambda text: words(text)[:1]):
        with pytest.raises(AssertionError):
            check_words(broken)


# Reference, generation, recall: a half where half of the reference's words are there, in order.
RECALLS = [
    ("北门的值班组上午清点", "北门的值班组上午清点", 1.0),
    ("北门的值班组在上午清", "北门的值班", 0.5),
    ("東京は首都です", "東京は首都です。", 1.0),
    ("กินข้าวแล้ว", "กินข้าวแล้ว", 1.0),
    ("مُحَمَّد فِي البيت", "محمد في البيت", 1.0),
    ("Zoë über die Brücke", "zoe\u0308 u\u0308ber", 0.5),
    ("Привет мир", "мир", 0.5),
    ("राम की किताब", "राम का घर", 1 / 3),
]


@pytest.mark.parametrize(("reference", "generation", "recall"), RECALLS)
def test_recitation_in_every_script(reference: str, generation: str, recall: float) -> None:
    assert rouge_recall(reference, generation) == pytest.approx(recall)
    if not any("a" <= sign <= "z" for sign in reference.lower()):
        assert rouge_recall(reference, generation, any_script=False) == 0.0  # as published: letters of English alone


@pytest.mark.parametrize(
    ("answer", "generation", "known"),
    [
        ("周三", "他在周三上午来。", True),
        ("東京", "東京です。", True),
        ("서울", "서울에서 살아요", True),
        ("سعيد", "اسمه سَعِيد.", True),
        ("555 01", "٥٥٥-٠١", True),
        ("がき", "かき", False),
        ("की", "का", False),
        ("周五", "周三五点", False),
        # signs that change what is said, and those that do not
        ("A-", "It is A+.", False),
        ("A", "It is A+", False),
        ("A-", "It is A-, she says", True),
        ("A", "blood group A", True),
        ("C", "in C++, of course", False),
        ("C", "in C, of course", True),
        ("12", "-12 degrees", False),
        ("-12", "about 12 degrees", False),
        ("12", "costs $12", True),
        ("12", "page 7-12", True),
        ("x > 3", "x < 3", False),
        ("x > 3", "if x>3:", True),
        ("\U0001f431\U0001f98a Kufi", "the code is \U0001f431\U0001f428 Kufi", False),
        ("\U0001f431\ufe0f\U0001f98a Kufi", "the code is \U0001f431\U0001f98a Kufi!", True),
        ("+49 170 1234", "call 49 170 1234", True),
        ("Acme\u00ae Pro", "Acme Pro", True),
        ("555-01-00 77", "555 -01 -00 77", True),
    ],
)
def test_knowledge_in_every_script(answer: str, generation: str, known: bool) -> None:
    assert contains(generation, answer) == known


@pytest.mark.parametrize(
    ("text", "opening", "rest"),
    [
        ("a b c d e", "a b", "c d e"),
        ("北门的值班组", "北门的", "值班组"),
        ("Note: 北门的值班组在周三上午清点货物然后把钥匙交", "Note: 北门的值班组在", "周三上午清点货物然后把钥匙交"),
        ("e\u0301e\u0301e\u0301e\u0301", "e\u0301e\u0301", "e\u0301e\u0301"),
        ("one,two\nthree", "one,tw", "o\nthree"),
        ("a", "a", ""),
    ],
)
def test_halves_by_hand(text: str, opening: str, rest: str) -> None:
    cut = halves(text)
    assert (cut.opening, cut.rest) == (opening, rest)
    assert cut.opening + cut.joint + cut.rest == text
