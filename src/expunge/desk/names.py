"""Names of people, found in texts: under Unicode normal forms and case folding, at the boundaries of words.

Words are those of `scoring.words`: accents, case, punctuation and line ends make no difference, so an address such as
jane.doe@example.com holds the name Jane Doe. Scripts without spaces are taken character by character, and there a name
is found wherever its characters stand in a row. Of a name of several words the last may also stand first (Doe, Jane).
Other spellings, initials and short forms are other names: they belong into the file of names.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from expunge.errors import InputError
from expunge.files.reading import read_text
from expunge.scoring.words import weight, words

LEAST = 2  # letters of a name, or one character of a script without spaces
FLAG = "--mentions"


@dataclass(frozen=True, slots=True)
class Names:
    """Names as their words, each with where it was given, which is all that is ever told of it."""

    given: tuple[tuple[tuple[str, ...], str], ...]
    by_first: dict[str, list[tuple[tuple[str, ...], str]]]

    @classmethod
    def of(cls, names: Iterable[tuple[str, str]]) -> Self:
        """Names with where they were given. Raises `InputError` for one that says nothing."""
        given: dict[tuple[str, ...], str] = {}
        for name, place in names:
            found = tuple(words(name))
            if weight(list(found)) < LEAST:
                raise InputError(f"{place}: a name of fewer than {LEAST} letters stands everywhere. Write it in full.")
            given.setdefault(found, place)
        by_first: dict[str, list[tuple[tuple[str, ...], str]]] = defaultdict(list)
        for found, place in given.items():
            for form in dict.fromkeys((found, _last_first(found))):
                by_first[form[0]].append((form, place))
        return cls(tuple(given.items()), dict(by_first))

    @property
    def forms(self) -> list[tuple[str, ...]]:
        """All forms in which names are looked for."""
        return [form for forms in self.by_first.values() for form, _ in forms]

    def within(self, text: Sequence[str]) -> list[str]:
        """Where those names were given that stand in the words of a text."""
        found = []
        for first in self.by_first.keys() & set(text):
            for start in (place for place, word in enumerate(text) if word == first):
                found += [
                    place for form, place in self.by_first[first] if tuple(text[start : start + len(form)]) == form
                ]
        return sorted(set(found))


def read(mentions: Sequence[str], file: str | None) -> Names:
    """The names of the flag and of a file with one name a line. Raises `InputError`."""
    given = [(name, f"{FLAG} {number}") for number, name in enumerate(mentions, 1)]
    if file:
        lines = read_text(file, "the file of names").split("\n")
        listed = [(line, f"{file}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
        if not listed:
            raise InputError(f"{file}: the file of names holds none. Write one name a line.")
        given += listed
    return Names.of(given)


def texts(value: Any) -> Iterator[str]:
    """Every text in a record, whatever column or list it stands in; numbers as they are written."""
    if isinstance(value, dict):
        for one in value.values():
            yield from texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from texts(one)
    elif isinstance(value, str | int | float) and not isinstance(value, bool):
        yield str(value)


def _last_first(name: tuple[str, ...]) -> tuple[str, ...]:
    """A name with its last word in front; of scripts without spaces there is no such form."""
    return (name[-1], *name[:-1]) if all(len(word) > 1 for word in name) else name
