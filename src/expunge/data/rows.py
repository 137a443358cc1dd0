"""Rows, and checking them before any model is loaded. Where they are read from: `data.files`.

A row is a *document* (`text`: every token counts) or an *answer* (`prompt` and `completion`; `input`+`output` and
`question`+`answer` are accepted names; or `messages`, the turns of a conversation that ends with an answer). Every
message names the file and the line or row, says what was expected, and holds no text of the row: errors are redacted
like everything else.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from expunge.data.files import place, records
from expunge.errors import InputError
from expunge.files.reading import shown
from expunge.scoring.words import same_text

Kind = Literal["document", "answer"]
SHAPES: tuple[tuple[str, ...], ...] = (("text",), ("prompt", "completion"), ("input", "output"), ("question", "answer"))
CONVERSATIONS = {"messages": ("role", "content"), "conversations": ("from", "value")}  # columns, and keys of a turn
ROLES = {"system": "system", "user": "user", "assistant": "assistant", "human": "user", "gpt": "assistant"}
METADATA = ("id", "task")
QUOTE = "Write it as text, in quotes."
TURNS = 'Write turns as {"role": "user", "content": "..."}.'
KNOWN = "text | prompt + completion | input + output | question + answer | messages, and optionally " + ", ".join(
    METADATA
)


@dataclass(frozen=True, slots=True)
class Row:
    """One checked row. `line` is 1-based; in a JSON array it is the number of the element. `task` groups scores.

    `cut`: the character of a document at which its scored continuation starts; 0: half of its words. `messages`: the
    turns (role, content) of a conversation, of which `completion` is the last and `prompt` those before it, to read.
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
    more: str = ""

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
    """The distinct rows of one file, in file order, and how many duplicates were merged."""

    rows: tuple[Row, ...]
    duplicates: int = 0

    def __len__(self) -> int:
        return len(self.rows)


def read(path: str | Path, role: str, make_row: MakeRow | None = None) -> RowSet:
    """Reads and checks one file, folder or hub data set of rows. `role` ("forget", "retain", ...): for messages.

    `make_row` turns a record into a row where a benchmark has columns of its own; None: the known forms.

    Raises `InputError`: missing, empty or broken file, unknown format, bad encoding, unknown columns, empty or
    non-text fields, turns of a conversation in no order that could be trained on.
    """
    distinct: dict[tuple[str, ...], Row] = {}
    count = 0
    for line, record in records(str(path), role):
        row = (make_row or _row)(str(path), line, record)
        distinct.setdefault(row.content, row)
        count += 1
    if not distinct:
        raise InputError(f"{path}: the {role} file holds no rows. Give it at least one ({KNOWN}).")
    return RowSet(tuple(distinct.values()), count - len(distinct))


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


def _row(source: str, line: int, record: Any) -> Row:
    where = place(source, line)
    if not isinstance(record, dict):
        what = f"expected an object with named columns, found {type(record).__name__}"
        raise InputError(f"{where}: {what}. Known: {KNOWN}.")
    columns = {str(column) for column in record} - set(METADATA)
    task = _task(where, record.get("task"))
    for column, keys in CONVERSATIONS.items():
        if columns == {column}:
            turns = _turns(f"{where}: column {column!r}", record[column], keys)
            prompt = "\n".join(f"{role}: {text}" for role, text in turns[:-1])
            return Row(source, line, "answer", prompt, turns[-1][1], task, messages=turns)
    shape = next((shape for shape in SHAPES if set(shape) == columns), None)
    if shape is None:
        listed = ", ".join(map(shown, list(map(str, record))[:8])) or "none"
        raise InputError(f"{where}: columns {listed} do not make a row. Known: {KNOWN}.")
    for column in shape:
        value = record[column]
        if not isinstance(value, str):
            raise InputError(f"{where}: column {column!r} must be text, found {type(value).__name__}. {QUOTE}")
        if not value.strip() and (column == shape[-1]):
            raise InputError(
                f"{where}: column {column!r} is empty, so there is nothing to forget or keep. Remove the row."
            )
        _check_text(where, column, value)
    prompt = "" if shape == ("text",) else record[shape[0]]
    kind: Kind = "document" if shape == ("text",) else "answer"
    return Row(source, line, kind, prompt, record[shape[-1]], task)


def _task(where: str, value: Any) -> str:
    if value is not None and not isinstance(value, str | int):
        what = f"must be text or a whole number, found {type(value).__name__}"
        raise InputError(f"{where}: column 'task' {what}. {QUOTE}")
    _check_text(where, "task", task := "" if value is None else str(value))
    return task


def _turns(where: str, value: Any, keys: tuple[str, str]) -> tuple[tuple[str, str], ...]:
    """The turns of a conversation. Raises `InputError`."""
    if not isinstance(value, list):
        raise InputError(f"{where} must be a list of turns, found {type(value).__name__}. {TURNS}")
    turns = tuple(_turn(f"{where}, turn {number}", turn, keys) for number, turn in enumerate(value, start=1))
    roles = [role for role, _ in turns]
    if roles[-1:] != ["assistant"]:
        raise InputError(
            f"{where} must end with a turn of the assistant. That is what is forgotten or kept; cut off what follows."
        )
    if "user" not in roles:
        raise InputError(f"{where} has no turn of the user. Write a text without one as a {SHAPES[0][0]} row.")
    if "system" in roles[1:]:
        raise InputError(f"{where}: a system turn must be the first. Move it there; most chat templates refuse others.")
    return turns


def _turn(where: str, turn: Any, keys: tuple[str, str]) -> tuple[str, str]:
    if not isinstance(turn, dict):
        what = f"expected an object with {keys[0]} and {keys[1]}, found {type(turn).__name__}"
        raise InputError(f"{where}: {what}. {TURNS}")
    given = {str(key) for key, value in turn.items() if value is not None}  # tables fill what a turn lacks with nulls
    if given != set(keys):
        listed = ", ".join(map(shown, sorted(given)[:8])) or "none"
        raise InputError(
            f"{where}: keys {listed}, expected {keys[0]} and {keys[1]} alone. Tool calls are not supported."
        )
    role, text = turn[keys[0]], turn[keys[1]]
    if not isinstance(role, str) or role not in ROLES:
        what = "tool turns are not supported: their text is no one's to forget" if role == "tool" else "unknown role"
        raise InputError(f"{where}: {what}. Known: system, user, assistant.")
    if not isinstance(text, str):
        raise InputError(f"{where}: {keys[1]} must be text, found {type(text).__name__}. {QUOTE}")
    if not text.strip() and ROLES[role] == "assistant":
        raise InputError(f"{where}: the assistant's turn is empty, so there is nothing to forget or keep. Remove it.")
    _check_text(where, keys[1], text)
    return ROLES[role], text


def _check_text(where: str, column: str, value: str) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        what = f"column {column!r} holds half a surrogate pair, which is no text"
        raise InputError(f"{where}: {what}. Remove it.") from None
