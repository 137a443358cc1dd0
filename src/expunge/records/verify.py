"""Whether a record still says what is there: every hash in it is made again, from the files where they lie now."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from expunge import registry
from expunge.config.commands import EARLIER, MODELS, ROWS
from expunge.config.flags import Trust
from expunge.config.housekeeping import Verify
from expunge.data import rows as reading
from expunge.data.rows import MakeRow
from expunge.errors import InputError
from expunge.files import hashing
from expunge.intake.sets import read_earlier
from expunge.model import load
from expunge.model.source import Source
from expunge.records import factors, hashes, manifest, record
from expunge.reporting.record import HELD_TO, Record
from expunge.runs import environment

State = Literal["same", "differs", "cannot be checked"]


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that a record has a hash of. `note`: why it differs, or why nobody can say."""

    name: str
    state: State
    note: str = ""

    def __str__(self) -> str:
        return f"{self.state:<18}{self.name}" + (f" ({self.note})" if self.note else "")


def verify(config: Verify) -> list[Item]:
    """Looks at everything a record has a hash of. Raises `InputError` where there is no record of a known form."""
    file = record.find(config.record)
    content = record.read(file)
    folder = file.parent.parent if file.parent.name == "expunge" else file.parent
    return [
        *_files(content, folder, file),
        _code(content),
        *_models(content, config, folder),
        *_curvature(content),
        *_rows(content, config),
        *_parent(content),
    ]


def _compared(name: str, recorded: str, found: str) -> Item:
    return Item(name, "same" if recorded == found else "differs")


def _unknown(name: str, reason: str) -> Item:
    return Item(name, "cannot be checked", reason)


def _files(content: Record, folder: Path, file: Path) -> Iterator[Item]:
    """Every file of the output: weights, tokenizer, pages, evidence, log."""
    recorded, found = content.files, manifest.listed(folder, file)
    closed = record.read_sealed(file)
    found.pop(str(file.with_name(record.SEALED).relative_to(folder)), None)
    for name in sorted(recorded.keys() | found.keys()):
        if name not in found and name in closed:
            yield _unknown(name, "removed when the request was sealed")
        elif closed.get(name) and name in found:
            yield _compared(name, closed[name], found[name].sha256)
        elif name not in found:
            yield Item(name, "differs", "is missing")
        elif name not in recorded:
            yield Item(name, "differs", "is not in the record")
        else:
            yield _compared(name, recorded[name].sha256, found[name].sha256)


def _code(content: Record) -> Item:
    written, here = content.versions.get("expunge"), environment.environment()["versions"]["expunge"]
    if written != here:
        return _unknown("code", f"written by version {written}; this is {here}")
    return _compared("code", content.hashes.get("code", ""), hashing.code_hash())


def _models(content: Record, config: Verify, folder: Path) -> Iterator[Item]:
    """The weights that the run read, where they still are, and those that it wrote."""
    hashed = content.hashes
    places = {role: getattr(config, role, None) or content.setting(role) for role in MODELS} | {"output": str(folder)}
    places["first"] = str(content.method.notes.get(HELD_TO)) if content.method else None
    trust = Trust(allow_pickle=True, adapter_base=content.setting("adapter_base"))  # nothing is loaded
    for role, place in places.items():
        if role not in hashed:
            continue
        found = hashes.of_model(role, Source.of(str(place), trust)) if load.weight_files(str(place)) else {}
        for name in (role, f"{role}_base"):
            if name in found:
                yield _compared(f"model: {name}", hashed.get(name, ""), found[name])
            elif name in hashed:
                yield _unknown(f"model: {name}", f"no weights lie at {place}")


def _curvature(content: Record) -> Iterator[Item]:
    """The curvature that was given, where it still lies there."""
    name, folder = "curvature", content.setting("curvature") or ""
    if name not in content.hashes:
        return
    try:
        yield _compared(name, content.hashes[name], factors.read(folder).hash)
    except InputError as error:
        lies = Path(folder).is_dir()
        yield Item(name, "differs", str(error)) if lies else _unknown(name, f"{folder} is not there")


def _rows(content: Record, config: Verify) -> Iterator[Item]:
    """Files of rows, the rows in them, and the ids of the forget rows: all hashes under the user's key."""
    roles = [role for role in ROWS if role in content.hashes]
    try:
        secret = hashing.key()
        reason = "it was written under another key" if content.key != hashing.key_mark(secret) else ""
    except InputError as error:
        secret, reason = b"", str(error)
    if EARLIER in content.hashes:
        yield _earlier(content, config, secret, reason)
    for role in roles:
        path = getattr(config, role) or content.setting(role) or ""
        if reason or not _lies(path):
            yield _unknown(f"rows: {role}", reason or f"{path} is not there; give --{role}")
            continue
        yield from _one_role(content, role, path, secret)


def _earlier(content: Record, config: Verify, secret: bytes, reason: str) -> Item:
    """Rows of earlier requests, of which those that were asked for again count as forget rows."""
    name, paths = f"rows: {EARLIER}", config.earlier or content.settings(EARLIER)
    forget = config.forget or content.setting("forget") or ""
    gone = [path for path in (*paths, forget) if not _lies(path)]
    if reason or gone:
        return _unknown(name, reason or f"{gone[0]} is not there")
    make_row = _make_row(content)
    try:
        columns = _columns(content)
        found = read_earlier(paths, make_row, reading.read(forget, "forget", make_row, columns), columns)
    except InputError as error:
        return Item(name, "differs", str(error))
    return _compared(name, content.hashes[EARLIER], hashes.of_rows(found.rows, secret))


def _lies(path: str) -> bool:
    """Whether a file or a folder lies there; neither a device nor a pipe is read."""
    return Path(path).is_file() or Path(path).is_dir()


def _columns(content: Record) -> tuple[str, ...]:
    return content.settings("columns")


def _make_row(content: Record) -> MakeRow | None:
    made: MakeRow | None = registry.load("benchmarks", content.setting("benchmark") or "rows")().make_row
    return made


def _one_role(content: Record, role: str, path: str, secret: bytes) -> Iterator[Item]:
    if recorded := content.row_files.get(role):
        yield _compared(f"file: {role}", recorded, hashing.keyed_file_hash(Path(path), secret))
    try:
        found = reading.read(path, role, _make_row(content), _columns(content)).rows
    except InputError as error:
        yield Item(f"rows: {role}", "differs", str(error))
        return
    yield _compared(f"rows: {role}", content.hashes[role], hashes.of_rows(found, secret))
    if role == "forget":
        ids = [hashing.keyed_hash(row.content, secret) for row in found]
        yield _compared(f"ids of {len(ids)} forget rows", " ".join(row.id for row in content.rows), " ".join(ids))


def _parent(content: Record) -> Iterator[Item]:
    """The record of the run that made this run's model."""
    if not (parent := content.parent):
        return
    file = record.find(parent.path)
    if not file.is_file():
        yield _unknown("record of the parent run", f"{file} is not there")
    else:
        yield _compared("record of the parent run", parent.record, hashing.full_hash(file))
