"""The file in which a person decides on rows: one row a line, with its reasons and a field to fill in.

    {"file": "train.jsonl", "line": 12, "id": "...", "reasons": ["holds most of train.jsonl:3"], "decide": "undecided"}

`decide` is forget, keep or undecided; everything else says which row is meant and is only compared. A line that was
taken out counts as undecided. The text of the row stands in it only with --show-rows.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, cast, get_args

from expunge.data.rows import Row
from expunge.desk.choose import Chosen, Verdict
from expunge.errors import InputError
from expunge.files import hashing
from expunge.files.reading import MOST_SETTINGS, NotJSON, parse_json, read_text

NAME = "decisions.jsonl"
WORDS = get_args(Verdict)
REMEDY = 'Change nothing but the word after "decide", or take the line out.'


@dataclass(frozen=True, slots=True)
class Decisions:
    """What was decided, by place of the row; the line on which each stands in its file, and the reasons given there."""

    file: Path
    by_place: Mapping[int, Verdict]
    lines: Mapping[int, int]
    reasons: Mapping[int, list[str]]

    def check(self, chosen: Sequence[Chosen], rows: Sequence[Row]) -> None:
        """Raises `InputError` where a row is to be kept that is to be forgotten."""
        for place, said in self.by_place.items():
            if said == "keep" and chosen[place].group == "forget":
                why = chosen[place].reasons[0]
                raise InputError(
                    f"{self.file}, line {self.lines[place]}: {rows[place].name} cannot be kept: {why}. Decide on both "
                    "alike."
                )


def read(file: Path, rows: Sequence[Row], secret: bytes) -> Decisions:
    """Decisions on rows of the training file; none where there is no file. Raises `InputError` with file and line."""
    if not file.exists():
        return Decisions(file, {}, {}, {})
    places = {row.line: place for place, row in enumerate(rows)}
    by_place: dict[int, Verdict] = {}
    lines: dict[int, int] = {}
    reasons: dict[int, list[str]] = {}
    for number, line in enumerate(read_text(file, "the file of decisions", MOST_SETTINGS).split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        entry = _entry(where, line)
        place = places.get(entry["line"])
        if place is None or entry["id"] != hashing.keyed_hash(rows[place].content, secret):
            raise InputError(f"{where}: the training file has no such row on its line {entry['line']}. {REMEDY}")
        if place in lines:
            raise InputError(f"{where}: line {lines[place]} decides on the same row. Take one of the two out.")
        by_place[place], lines[place], reasons[place] = entry["decide"], number, entry["reasons"]
    return Decisions(file, by_place, lines, reasons)


def entries(
    rows: Sequence[Row], chosen: Sequence[Chosen], decided: Decisions, secret: bytes, show: bool
) -> list[bytes]:
    """The lines of the file: what is undecided, and what was decided before as it stood, in the order of the rows."""
    said = {place: word for place, word in decided.by_place.items() if word != "undecided"}
    listed: dict[int, list[str]] = {place: decided.reasons[place] for place in said}
    listed |= {place: list(map(str, one.reasons)) for place, one in enumerate(chosen) if one.group == "undecided"}
    return [_line(rows[place], listed[place], said.get(place, "undecided"), secret, show) for place in sorted(listed)]


def _line(row: Row, reasons: list[str], said: Verdict, secret: bytes, show: bool) -> bytes:
    entry: dict[str, Any] = {"file": row.file, "line": row.line, "id": hashing.keyed_hash(row.content, secret)}
    entry |= {"reasons": reasons, "decide": said}
    if show:
        entry["text"] = [row.prompt, row.completion] if row.prompt else [row.completion]
    return json.dumps(entry, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


class _Entry(TypedDict):
    line: int
    id: str
    reasons: list[str]
    decide: Verdict


def _entry(where: str, line: str) -> _Entry:
    try:
        entry = parse_json(line)
    except NotJSON as error:
        raise InputError(f"{where}: {error}. {REMEDY}") from None
    if not isinstance(entry, dict) or type(entry.get("line")) is not int or not isinstance(entry.get("id"), str):
        raise InputError(f"{where}: not a decision: an object with line, id and decide. {REMEDY}")
    reasons = entry.setdefault("reasons", [])
    if not isinstance(reasons, list) or not all(isinstance(one, str) for one in reasons):
        raise InputError(f'{where}: "reasons" is a list of texts. {REMEDY}')
    if entry.get("decide") not in WORDS:
        raise InputError(f'{where}: "decide" must be one of {", ".join(WORDS)}. {REMEDY}')
    return cast(_Entry, entry)
