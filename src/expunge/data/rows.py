"""Rows, and checking them before any model is loaded. Where they are read from: `data.files`; forms: `data.forms`.

A row is a *document* (`text`: every token counts) or an *answer* (`prompt` and `completion`, under several names, or
the turns of a conversation that ends with an answer). Every message names the file and the line or row, says what was
expected, and holds no text of the row: errors are redacted like everything else.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from expunge.data import forms, turns
from expunge.data.files import place, records
from expunge.data.forms import Columns, Form
from expunge.errors import InputError, kind_of
from expunge.scoring.words import same_text

Kind = Literal["document", "answer"]
MOST_TOLD = 3
ALTERNATE, PARAPHRASE = "alternate", "paraphrase"


@dataclass(frozen=True, slots=True)
class Row:
    """One checked row. `line` is 1-based; in a JSON array it is the number of the element. `task` groups scores.

    `cut`: the character of a document at which its scored continuation starts; 0: half of its words. `messages`: the
    turns (role, content) of a conversation, of which `completion` is the last and `prompt` those before it, to read.
    `paraphrased` and `perturbed`: other answers that a benchmark brings, the true one in other words and wrong ones.
    `alternates`: other texts that could stand where the completion does (column `alternate`: one, or a list of them).
    `reworded`: other ways to ask for the same (column `paraphrase`: one, or a list of them); only attacks ask so.
    `more`: what turns hold beside that, by place ("turns"), and the "tools" on offer, as JSON; "": nothing.
    """

    file: str
    line: int
    kind: Kind
    prompt: str
    completion: str
    task: str = ""
    cut: int = 0
    messages: tuple[tuple[str, str], ...] = ()
    paraphrased: tuple[str, ...] = ()
    perturbed: tuple[str, ...] = ()
    alternates: tuple[str, ...] = ()
    more: str = ""
    reworded: tuple[str, ...] = ()

    @property
    def content(self) -> tuple[str, ...]:
        """What makes two rows the same row, whatever file they stand in and however they are spaced at the ends.

        Two texts; of a conversation a heading and all its turns, an odd number, so that no text can be taken for one.
        """
        if self.messages:
            turns = (part for role, text in self.messages for part in (role, text.strip()))
            return "messages", *turns, *((self.more, "more") if self.more else ())
        return self.prompt.strip(), self.completion.strip()

    @property
    def identity(self) -> tuple[str, ...]:
        """The same for rows that a person takes for one: normal form, case, unseen characters and spacing put aside."""
        return tuple(same_text(part) for part in self.content)

    @property
    def name(self) -> str:
        return f"{Path(self.file).name}:{self.line}"

    @property
    def place(self) -> str:
        """File and line or row, for messages."""
        return place(self.file, self.line)

    def digest(self, salt: str) -> bytes:
        """Hash used to split and order rows; never written anywhere, since short secrets could be enumerated."""
        return hashlib.sha256("\0".join((salt, *self.content)).encode()).digest()


MakeRow = Callable[[str, int, Any], Row]
"""From file, line and record to a checked row. Raises `InputError`."""


@dataclass(frozen=True, slots=True)
class RowSet:
    """The distinct rows of one file, in file order, and how many duplicates were merged.

    `told`: which columns made them, where that is worth a line; `asked`: how many were made as --columns says.
    """

    rows: tuple[Row, ...]
    duplicates: int = 0
    told: str = ""
    asked: int = 0

    def __len__(self) -> int:
        return len(self.rows)


def read(path: str | Path, role: str, make_row: MakeRow | None = None, columns: Sequence[str] = ()) -> RowSet:
    """Reads and checks one file, folder or hub data set of rows. `role` ("forget", "retain", ...): for messages.

    `make_row` turns a record into a row where a benchmark has columns of its own; None: the known forms, and what
    `columns` says of others (see `forms.asked`).

    Raises `InputError`: missing, empty or broken file, unknown format, bad encoding, unknown columns, empty or
    non-text fields, turns of a conversation in no order that could be trained on.
    """
    distinct: dict[tuple[str, ...], Row] = {}
    count, seen = 0, Counter[Form]()
    for row, form, _ in each(path, role, make_row, columns):
        if form:
            seen[form] += 1
        first = distinct.setdefault(row.content, row)
        if added := [text for text in row.alternates if text not in first.alternates]:
            distinct[row.content] = replace(first, alternates=(*first.alternates, *added))
        count += 1
    if not distinct:
        raise InputError(f"{path}: the {role} file holds no rows. Give it at least one ({forms.KNOWN}).")
    by_asking = sum(times for form, times in seen.items() if form.asked)
    return RowSet(tuple(distinct.values()), count - len(distinct), _told(seen), by_asking)


class Made(NamedTuple):
    """A row, the form that its record was read by (None: a benchmark's own), and the record."""

    row: Row
    form: Form | None
    record: Any


def each(path: str | Path, role: str, make_row: MakeRow | None = None, columns: Sequence[str] = ()) -> Iterator[Made]:
    """Every row of a file in its order, duplicates too. Raises `InputError` as `read` does."""
    asked = forms.asked(columns)
    for line, record in records(str(path), role):
        if make_row:
            yield Made(make_row(str(path), line, record), None, record)
        else:
            yield Made(*_row(str(path), line, record, asked), record)


def check_disjoint(forget: RowSet, other: RowSet, role: str) -> None:
    """Raises `InputError` where a row to forget stands in the other set too, naming both places."""
    places = {row.identity: row for row in other.rows}
    both = [(row, places[row.identity]) for row in forget.rows if row.identity in places]
    if both:
        first, twin = both[0]
        form = "" if first.content == twin.content else ", in another case, spacing or Unicode form"
        raise InputError(
            f"{first.place}: this row is also in the {role} set ({twin.place}{form}); "
            f"{len(both)} row(s) are in both. Remove them from one of the two files."
        )


def without(rows: RowSet, removed: RowSet) -> tuple[Row, ...]:
    """The rows of the first set that are not in the second, in whatever case, spacing or Unicode form."""
    gone = {row.identity for row in removed.rows}
    return tuple(row for row in rows.rows if row.identity not in gone)


def check_filled(where: str, column: str, value: object) -> None:
    """Raises `InputError` where a benchmark's column is not a text with something in it."""
    if not isinstance(value, str) or not value.strip():
        found = "is empty" if isinstance(value, str) else f"must be text, found {kind_of(value)}"
        raise InputError(f"{where}: column {column!r} {found}. Remove the row or fill it in.")
    turns.check_text(f"{where}: column {column!r}", value)


def _row(source: str, line: int, record: object, columns: Columns) -> tuple[Row, Form]:
    where = place(source, line)
    found = forms.content(where, record, columns)
    assert isinstance(record, dict)
    task, alternates = _task(where, record.get("task")), _texts(where, record, ALTERNATE)
    if talk := found.conversation:
        row = Row(source, line, "answer", talk.prompt, talk.completion, task, messages=talk.turns, more=talk.more)
        row = replace(row, alternates=alternates)
    else:
        kind: Kind = "document" if found.is_document else "answer"
        row = Row(source, line, kind, found.prompt, found.completion, task, alternates=alternates)
    return replace(row, reworded=_texts(where, record, PARAPHRASE)), found.form


def _told(seen: Counter[Form]) -> str:
    """What is worth saying of how the rows were made, the commonest first."""
    told = [(form.told, times) for form, times in seen.most_common() if form.told]
    every = sum(seen.values())
    lines = [words if times == every else f"{times} rows: {words}" for words, times in told[:MOST_TOLD]]
    return " | ".join(lines) + (" | and others" if len(told) > MOST_TOLD else "")


def _task(where: str, value: object) -> str:
    if value is not None and not isinstance(value, str | int):
        what = f"must be text or a whole number, found {kind_of(value)}"
        raise InputError(f"{where}: column 'task' {what}. {turns.QUOTE}")
    turns.check_text(f"{where}: column 'task'", task := "" if value is None else str(value))
    return task


def _texts(where: str, record: Mapping[str, object], column: str) -> tuple[str, ...]:
    """The texts of a column, of which none may be missing. Raises `InputError`."""
    value = record.get(column)
    texts = [] if value is None or value == "" else value if isinstance(value, list) else [value]
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            found = "an empty one" if isinstance(text, str) else kind_of(text)
            what = f"must be a text or a list of texts, found {found}"
            raise InputError(f"{where}: column {column!r} {what}. {turns.QUOTE}")
        turns.check_text(f"{where}: column {column!r}", text)
    return tuple(dict.fromkeys(texts))
