"""Text that somebody else chose, made harmless to look at: control characters by name, on pages and on a terminal."""

import unicodedata


def visible(text: str) -> str:
    """Control characters by name: a row must not reorder, hide or cut off what stands around it.

    Line ends and tabs stay. Lone surrogates, which JSON allows and UTF-8 does not, count as control characters.
    """
    return "".join(f"[U+{ord(sign):04X}]" if unsafe(sign) else sign for sign in text.replace("\r\n", "\n"))


def in_a_line(text: str) -> str:
    """`visible` for a terminal and for messages of one line: line ends and tabs are named too."""
    return visible(text).replace("\n", "[U+000A]").replace("\t", "[U+0009]")


def unsafe(sign: str) -> bool:
    """Whether a character steers a terminal or a page in place of being seen (line ends and tabs do not count)."""
    if sign in "\n\t":
        return False
    return unicodedata.category(sign) in ("Cc", "Cs") or sign in "\u200e\u200f\u061c\u2028\u2029" or _reorders(sign)


def _reorders(sign: str) -> bool:
    return "\u202a" <= sign <= "\u202e" or "\u2066" <= sign <= "\u2069"
