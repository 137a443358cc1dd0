"""The ledger: the requests that came to one lineage of models, in a folder. It holds no text of any row.

`ledger.jsonl` has a header and one entry a line: a request was *opened* (its rows by keyed hash), a *run* ended (its
verdict), a *sealing* began (what is to go), a request was *sealed* (what is gone). Entries are only ever added. Each
carries a mark, the keyed hash of itself and of the mark before, so that a line that was changed, moved or taken out
from between others is refused. The file is replaced as a whole, so it is never half written; one process at a time
adds to it, which the system sees to: a lock ends with its process.

What a request is follows from its entries: open until a run's verdict passed, then served, and still open to be closed
until it is sealed.

For near-duplicates (`expunge filter`) a row leaves keyed hashes of some of its runs of three words: half of them, but
four at least and 16 at most, chosen by their hashes. Whoever has the ledger alone learns how many runs a row has, up to
32, and which rows share one. Whoever also has the key can try texts, as with every hash under it, and find out run by
run whether a row held it; of a longer row every other run or more is missing. So the key is to be kept as the rows
were.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

from expunge.data.rows import Row
from expunge.errors import InputError
from expunge.files import hashing, whole
from expunge.files.reading import MOST_SETTINGS, NotJSON, parse_json, read_text
from expunge.files.typed import plain, taken
from expunge.intake import copies
from expunge.reporting.entries import Entry, Mark, Opened, Ran, Sealed, Sealing
from expunge.runs import workspace
from expunge.scoring.words import words

NAME, HELD = "ledger.jsonl", "held-by"
SCHEMA = 1
LEAST_RUNS, MOST_RUNS = 4, 16
REMEDY = "Nothing but expunge may write it: put back a copy from before, or begin another ledger."
Kind = TypeVar("Kind", Opened, Ran, Sealing, Sealed)
State = Literal["open", "served", "sealing", "sealed"]


@dataclass(frozen=True, slots=True)
class Request:
    """A request by its entries, in order."""

    id: str
    entries: tuple[Entry, ...]

    @property
    def state(self) -> State:
        """Where it stands: see the module."""
        if self.of(Sealed):
            return "sealed"
        if self.of(Sealing):
            return "sealing"
        return "served" if any(one.passes for one in self.of(Ran)) else "open"

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Its entries of one kind."""
        return [one for one in self.entries if isinstance(one, kind)]

    @property
    def opened(self) -> Opened:
        """Its rows and its rule, as they were given last."""
        return self.of(Opened)[-1]

    @property
    def run(self) -> Ran | None:
        """The run that served it, else the last that tried to."""
        runs = self.of(Ran)
        return next((one for one in reversed(runs) if one.passes), runs[-1] if runs else None)

    @property
    def ids(self) -> set[str]:
        """Keyed hashes of its rows, by which records name them."""
        return {row.id for row in self.opened.rows}

    def __str__(self) -> str:
        """In a line."""
        said = f"{self.id}: {self.state}, {len(self.ids)} rows, opened {self.opened.date[:10]}"
        if run := self.run:
            said += f"; {run.date[:10]} {run.path}: {run.verdict.sentence}"
        return said


@dataclass(frozen=True, slots=True)
class Ledger:
    """What a ledger holds, and the folder that it lies in."""

    folder: Path
    secret: bytes
    lines: tuple[str, ...]
    requests: Mapping[str, Request]
    mark: str

    @property
    def file(self) -> Path:
        return self.folder / NAME

    def with_entry(self, entry: Entry) -> "Ledger":
        """Adds an entry, on the disk, and returns what the ledger holds now. Only for who holds it (`held`)."""
        _write(self.folder, self.lines, plain(entry), self.mark, self.secret)
        return read(self.folder)


def read(folder: str | Path) -> Ledger:
    """The ledger in a folder. Raises `InputError` with the line where it is not what expunge wrote."""
    file, secret = Path(folder) / NAME, hashing.key()
    lines = read_text(file, "the ledger", MOST_SETTINGS).split("\n")
    if lines.pop() or not lines:
        raise InputError(f"{file}, line {len(lines) + 1}: the ledger is cut off. {REMEDY}")
    header = _entry(file, 1, lines[0])
    if header.get("ledger") != SCHEMA:
        raise InputError(f"{file}, line 1: not a ledger of schema {SCHEMA}. {REMEDY}")
    if header.get("key") != hashing.key_mark(secret):
        raise InputError(
            f"{file}, line 1: the ledger was begun under another key, so its rows cannot be known again. Put that key "
            "back into the configuration folder (expunge/row-hash.key)."
        )
    mark, entries = "", list[Entry]()
    for number, line in enumerate(lines, 1):
        entry = _entry(file, number, line)
        if entry.pop("mark", None) != (mark := _mark(entry, mark, secret)):
            raise InputError(f"{file}, line {number}: this line, or one before it, is not as it was written. {REMEDY}")
        if number > 1:
            entries.append(taken(entry, cast(type[Entry], Entry), f"{file}, line {number}", REMEDY))
    names = dict.fromkeys(entry.request for entry in entries)
    requests = {name: Request(name, tuple(one for one in entries if one.request == name)) for name in names}
    return Ledger(Path(folder), secret, tuple(lines), requests, mark)


@contextmanager
def held(folder: str | Path, what: str) -> Iterator[tuple[Ledger, str]]:
    """The ledger for one process alone, begun where there is none, and what is to be said of who had it before.

    `what` this process does is told to others that want it meanwhile. Raises `InputError` for them.
    """
    place = workspace.private(Path(folder))
    holder = place / HELD
    busy = f"{place}: another process has this ledger ({_told(holder)}). Wait until that has ended."
    with workspace.locked(place, busy):
        before = _told(holder) if holder.exists() else ""
        said = f"note: {before} had the ledger and ended before it was done" if before else ""
        whole.write_whole(holder, f"process {os.getpid()}, {what}, since {now()}".encode())
        try:
            if not (place / NAME).exists():
                secret = hashing.key()
                _write(place, (), {"ledger": SCHEMA, "date": now(), "key": hashing.key_mark(secret)}, "", secret)
            yield read(place), said
        finally:
            holder.unlink(missing_ok=True)


def marks(rows: Iterable[Row], secret: bytes) -> tuple[Mark, ...]:
    """What the ledger keeps of rows: the id that records have, the hash that makes other spellings the same row, and
    hashes of some of its runs of words (`of` so many)."""
    found = []
    for row in rows:
        runs = sorted(hashing.run_hash(gram, secret) for gram in copies.grams(words(copies.text_of(row))))
        kept = min(MOST_RUNS, max(LEAST_RUNS, (len(runs) + 1) // 2))
        own = hashing.keyed_hash(row.content, secret)
        found.append(Mark(own, same_row(row, secret), tuple(runs[:kept]), min(len(runs), 2 * MOST_RUNS)))
    return tuple(found)


def same_row(row: Row, secret: bytes) -> str:
    """The keyed hash that a row has in every spelling."""
    return hashing.keyed_hash(("same", *row.identity), secret)


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _write(folder: Path, lines: tuple[str, ...], entry: Mapping[str, Any], before: str, secret: bytes) -> None:
    line = json.dumps({**entry, "mark": _mark(entry, before, secret)})
    whole.write_whole(folder / NAME, "".join(f"{one}\n" for one in (*lines, line)).encode())


def _mark(entry: Mapping[str, Any], before: str, secret: bytes) -> str:
    return hashing.keyed_hash(("entry", before, json.dumps(entry, sort_keys=True)), secret)


def _entry(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        entry = parse_json(line)
    except NotJSON as error:
        raise InputError(f"{file}, line {number}: {error}. {REMEDY}") from None
    if not isinstance(entry, dict):
        raise InputError(f"{file}, line {number}: not an entry. {REMEDY}")
    return entry


def _told(holder: Path) -> str:
    try:
        return holder.read_text(encoding="utf-8")
    except OSError:
        return "it says nothing of itself"
