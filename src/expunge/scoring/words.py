"""Words of a text in any script, for comparing texts, and where a text is cut in half.

Letters are compared without what does not change what they say: case, normal forms (NFKC), accents of Latin, Greek and
Cyrillic, points of Hebrew and Arabic, characters that are not seen, and which script's digits were used. Marks that
make another letter (Japanese, Thai, Indic) stay. Scripts that put no spaces between words, and Hangul, whose particles
cling to words, are taken character by character, each with its marks.
"""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import regex

_UNSPACED = (
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Javanese}"
    r"\p{Balinese}\p{Tai_Tham}\p{New_Tai_Lue}\p{Tai_Le}\p{Tai_Viet}\p{Yi}\u30fc"
)
_ACCENTS = (
    r"\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff"
    r"\ufe00-\ufe0f\ufe20-\ufe2f"
)
_TATWEEL = "\u0640"  # stretches an Arabic word
_DROPPED = regex.compile(rf"[[\p{{Mn}}&&[{_ACCENTS}]]||\p{{Cf}}||{_TATWEEL}]", regex.V1)
_WORD = regex.compile(rf"(?=[\p{{L}}\p{{N}}])[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{N}}\p{{M}}]--[{_UNSPACED}]]+", regex.V1)
_PLAIN = regex.compile("[a-z0-9]+")
_DIGIT = regex.compile(r"[\p{Nd}--[0-9]]", regex.V1)
_SINGLE = regex.compile(rf"[{_UNSPACED}]")
_CHARACTER = regex.compile(r"\X")
_PICTURES = r"[\p{Extended_Pictographic}\p{Emoji_Modifier}\U0001f1e6-\U0001f1ff]--[\u00a9\u00ae\u2122\p{N}]"
_SIGN = regex.compile(
    rf"(?P<compares>[<>=\u00b1\u00d7\u00f7\u2264\u2265\u2260])|(?P<pictures>[{_PICTURES}])"
    r"|(?P<after>(?<=[\p{L}\p{N}])[+\-\u2212#]+(?![\p{L}\p{N}+\-\u2212#]))|(?P<minus>(?<![^\s(])[-\u2212](?=\p{N}))",
    regex.V1,
)
FEWEST, MOST = 0.2, 0.8  # of a text's characters that the first half of its words may take


@dataclass(frozen=True, slots=True)
class Halves:
    """A text is `opening`, `joint` (a space, or nothing) and `rest`."""

    opening: str
    joint: str
    rest: str


def folded(text: str) -> str:
    """The text as it is compared: see the module."""
    if text.isascii():
        return text.lower()
    plain = unicodedata.normalize("NFD", unicodedata.normalize("NFKC", text).casefold())
    plain = unicodedata.normalize("NFC", _DROPPED.sub("", plain))
    return str(_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0])), plain))


def words(text: str) -> list[str]:
    """The words of the folded text, in order; of scripts without spaces its characters."""
    plain = folded(text)
    found: list[str] = (_PLAIN if plain.isascii() else _WORD).findall(plain)
    return found


def words_and_signs(text: str) -> list[str]:
    """The words, and between them, with a space before each, signs that change what a text says: pictures, what
    compares ("x < 3"), what clings to the end of a word ("A+", "C#", after it) and a minus (before a number).

    Others, such as dashes and currencies, may be left out or written otherwise.
    """
    plain, found, place = folded(text), list[str](), 0
    for sign in _SIGN.finditer(plain):
        found += [*words(plain[place : sign.start()]), f" {sign.lastgroup} {sign[0]}"]
        place = sign.end()
    return found + words(plain[place:])


def weight(found: list[str]) -> int:
    """About how much some words say, in letters of an alphabet: a character of the scripts without spaces says two."""
    return sum(2 if _SINGLE.match(word) else len(word) for word in found)


def same_text(text: str) -> str:
    """The text as it is told from others: normal form, case, unseen characters and spacing make no other row."""
    if text.isascii():
        return " ".join(text.lower().split())
    plain = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())
    return " ".join("".join(sign for sign in plain if unicodedata.category(sign) != "Cf").split())


def runs(found: Sequence[str], length: int) -> Iterator[tuple[str, ...]]:
    """All runs of so many words, in order; none of fewer words."""
    return zip(*(found[start:] for start in range(length)), strict=False)


def halves(text: str) -> Halves:
    """A text cut after half of the words that spaces make; by characters where those make none or very unequal halves.

    Characters keep their marks. A text of one character has no rest.
    """
    parts = text.split(" ")
    half = max(1, len(parts) // 2)
    opening, rest = " ".join(parts[:half]), " ".join(parts[half:])
    if len(parts) > 1 and rest.strip() and FEWEST <= len(opening) / len(text) <= MOST:
        return Halves(opening, " ", rest)
    characters = _CHARACTER.findall(text)
    half = len(characters) // 2
    if not half:
        return Halves(text, "", "")
    return Halves("".join(characters[:half]), "", "".join(characters[half:]))
