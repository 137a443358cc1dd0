"""What a ledger says of a request, as `ledger.jsonl` and the file of a selection have it. No text of any row."""

from collections.abc import Mapping
from typing import Literal

from expunge.files.typed import Part
from expunge.reporting.finding import Count, Lines, RestVerdict, RowVerdict


class Source(Part, frozen=True):
    """A file, and the keyed hash of what it held."""

    file: str
    content: str


class Condition(Part, frozen=True):
    """A column, and the keyed hash of the value that it is to hold."""

    column: str
    value: str


class Mention(Part, frozen=True):
    """The keyed hash of a name, and of how many words that is."""

    words: Count
    name: str


class Rule(Part, frozen=True):
    """By which rows were found."""

    where: tuple[Condition, ...]
    mentions: tuple[Mention, ...]


class Decided(Part, frozen=True):
    """How many rows a person decided to forget and to keep."""

    forget: Count
    keep: Count


class Selection(Part, frozen=True, kw_only=True):
    """How rows were found: `rows` of the training file, and of others that were never trained on (`unseen`)."""

    created: str
    train: Source
    rows: Count
    unseen: Source | None
    rule: Rule
    counts: Mapping[str, Count]
    reasons: Mapping[str, Mapping[str, Count]]
    decided: Decided


class SelectionFile(Selection, frozen=True, kw_only=True):
    """A selection as `expunge select` writes it beside the rows."""

    schema: Literal[1]
    columns: Lines
    key: str


class Mark(Part, frozen=True):
    """Of a row: see `ledger.marks`."""

    id: str
    same: str
    runs: Lines
    of: Count


class Opened(Part, frozen=True, kw_only=True, tag_field="event", tag="opened"):
    """A request was opened with these rows, from a file that had this keyed hash."""

    request: str
    date: str
    rows: tuple[Mark, ...]
    file: str
    content: str
    selection: Selection | None


class Judged(Part, frozen=True):
    """Of a run's verdict."""

    sentence: str
    forget: RowVerdict
    rest: RestVerdict
    counts: Mapping[str, Count]


class Ran(Part, frozen=True, kw_only=True, tag_field="event", tag="run"):
    """A run ended: where its output lies, the hash of its record, and by earlier request what it found of its rows."""

    request: str
    date: str
    path: str
    record: str
    passes: bool
    verdict: Judged
    hashes: Mapping[str, str]
    again: Mapping[str, str]


class Going(Part, frozen=True):
    """What is to go, or went."""

    path: str
    what: str


class Copy(Part, frozen=True):
    """What was not reached, and where."""

    what: str
    where: str


class Sealing(Part, frozen=True, kw_only=True, tag_field="event", tag="sealing"):
    """Closing the request began: what is to go."""

    request: str
    date: str
    remove: tuple[Going, ...]


class Sealed(Part, frozen=True, kw_only=True, tag_field="event", tag="sealed"):
    """The request was closed; `forced`: although no run of it passed."""

    request: str
    date: str
    removed: tuple[Going, ...]
    elsewhere: tuple[Copy, ...]
    forced: bool


Entry = Opened | Ran | Sealing | Sealed
