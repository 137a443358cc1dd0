"""Names of people, found in texts: under Unicode normal forms and case folding, at the boundaries of words.

Words are those of `scoring.words`: accents, case, punctuation and line ends make no difference, so an address such as
jane.doe@example.com holds the name Jane Doe. Scripts without spaces are taken character by character, and there a name
is found wherever its characters stand in a row. Of a name of several words the last may also stand first (Doe, Jane).
Other spellings, initials and short forms are other names: they belong into the file of names.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

from expunge.errors import InputError
from expunge.files.reading import read_text
from expunge.scoring.words import weight, words

LEAST = 2  # letters of a name, or one character of a script without spaces
FLAG = "--mentions"


@dataclass(frozen=True, slots=True)
class Names:
    """Names as their words, in all forms in which they are looked for, each with where it was given, which is all that
    is ever told of it. `lengths`: of the forms that begin with a word."""

    forms: dict[tuple[str, ...], str]
    lengths: dict[str, set[int]]

    @classmethod
    def of(cls, names: Iterable[tuple[str, str]]) -> Self:
        """Names with where they were given. Raises `InputError` for one that says nothing."""
        forms: dict[tuple[str, ...], str] = {}
        lengths: dict[str, set[int]] = defaultdict(set)
        for name, place in names:
            found = tuple(words(name))
            if weight(list(found)) < LEAST:
                raise InputError(f"{place}: a name of fewer than {LEAST} letters stands everywhere. Write it in full.")
            for form in (found, _last_first(found)):
                forms.setdefault(form, place)
                lengths[form[0]].add(len(form))
        return cls(forms, dict(lengths))

    def within(self, text: Sequence[str]) -> list[str]:
        """Where those names were given that stand in the words of a text."""
        if self.lengths.keys().isdisjoint(text):
            return []
        runs = (
            tuple(text[start : start + length])
            for start, word in enumerate(text)
            for length in self.lengths.get(word, ())
        )
        return sorted({self.forms[run] for run in runs if run in self.forms})


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


def texts(value: object) -> Iterator[str]:
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
