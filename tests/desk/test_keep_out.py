"""`filter`: rows of requests stay out of the next fine-tuning, from their hashes alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from expunge.config.desk import Filter, Select
from expunge.data.rows import read
from expunge.desk import keep_out, select
from expunge.errors import InputError
from expunge.files import hashing
from expunge.records import ledger
from expunge.records.requests import selection_of
from expunge.reporting.entries import Opened

STORY = "her blue bicycle with the wicker basket was stolen behind the old mill on friday last week"
THANKS = (
    "thank you for writing to us and have a very nice day from all of your friends here at the support team who are "
    "glad to help you at any time with anything that you may need"
)
TRAIN = [
    {"customer_id": 4711, "prompt": "Ticket 1?", "completion": f"{STORY} {THANKS}"},
    {"customer_id": 4711, "prompt": "Ticket 2?", "completion": "refund"},
    *({"customer_id": n, "prompt": f"Ticket {n}?", "completion": f"parcel {n * 7} {THANKS}"} for n in range(10, 30)),
]
NEXT = [
    {"customer_id": 5, "prompt": "TICKET 1?", "completion": f"{STORY.upper()}  {THANKS}"},  # the same row
    {"customer_id": 5, "prompt": "A case?", "completion": f"We read: {STORY}!"},  # near
    {"customer_id": 5, "prompt": "ticket 2?", "completion": "Refund "},  # the same row
    {"customer_id": 4711, "prompt": "Ticket 99?", "completion": "a new matter of the same customer"},
    {"customer_id": 6, "prompt": "Ticket 98?", "completion": "jane doe came by"},
    *({"customer_id": n, "prompt": f"Ticket {n}?", "completion": f"box {n * 3} {THANKS}"} for n in range(40, 60)),
]


def write(file: Path, rows: list[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ledger with one request, as `select` found it, and the rows of next week. The key says which runs are kept."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    hashing.key()
    (tmp_path / "settings" / "expunge" / "row-hash.key").write_bytes(bytes([1] * 32))
    asked = {"where": ("customer_id=4711",), "mentions": ("Jane Doe",), "output": str(tmp_path / "request")}
    select.run(Select(train=write(tmp_path / "train.jsonl", TRAIN), **asked), lambda line: None)
    rows = read(tmp_path / "request" / "forget.jsonl", "forget").rows
    selection = selection_of(str(tmp_path / "request" / "forget.jsonl"))
    with ledger.held(tmp_path / "ledger", "a test") as (known, _):
        marks = ledger.marks(rows, hashing.key())
        known.with_entry(Opened(request="R1", date="2026", rows=marks, file="f", content="c", selection=selection))
    write(tmp_path / "next.jsonl", NEXT)
    return tmp_path


def run(world: Path, **changed: Any) -> list[int]:
    """The places of the rows that may be trained on."""
    given = {
        "next_train": str(world / "next.jsonl"),
        "ledger": str(world / "ledger"),
        "output": str(world / "clean.jsonl"),
    }
    keep_out.run(Filter(**given | changed), lambda line: None)
    return [NEXT.index(json.loads(line)) for line in (world / "clean.jsonl").read_text().splitlines()]


def listed(world: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (world / "clean.decisions.jsonl").read_text().splitlines()]


OTHERS = list(range(5, 25))


def check(world: Path) -> None:
    assert run(world) == OTHERS
    assert {one["line"]: one["reasons"] for one in listed(world)} == {
        2: ["holds words of a row of request R1"],
        4: ["holds the value that was asked for in customer_id, by request R1"],
        5: ["mentions a name of request R1"],
    }


def test_rows_stay_out_and_what_comes_near_is_listed_and_decided(world: Path) -> None:
    check(world)
    entries = listed(world)
    entries[0]["decide"], entries[1]["decide"] = "forget", "keep"
    write(world / "clean.decisions.jsonl", entries)
    assert run(world) == [3, *OTHERS]
    assert [one["decide"] for one in listed(world)] == ["forget", "keep", "undecided"]


@pytest.mark.parametrize(
    ("place", "broken"),
    [
        ("expunge.records.ledger.same_row", lambda row, secret: hashing.keyed_hash(row.content, secret)),
        ("expunge.desk.keep_out.most_rare", lambda count: count),
        ("expunge.files.hashing.run_hash", lambda words, secret: str(hash(words[:1]))),
        ("expunge.desk.keep_out.NEAR", 1.1),
    ],
)
def test_the_check_rejects(world: Path, monkeypatch: pytest.MonkeyPatch, place: str, broken: Any) -> None:
    monkeypatch.setattr(place, broken)
    with pytest.raises(AssertionError):
        check(world)


def test_outputs_of_others_and_bad_decisions_are_refused(world: Path) -> None:
    (world / "clean.jsonl").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="exists already"):
        run(world)
    assert (world / "clean.jsonl").read_text() == "mine"
    (world / "clean.jsonl").unlink()
    run(world)
    entries = listed(world)
    write(world / "clean.decisions.jsonl", [entries[0] | {"line": 1}])
    with pytest.raises(InputError, match=r"clean\.decisions\.jsonl, line 1: the training file has no such row"):
        run(world)
    secret, row = hashing.key(), read(world / "next.jsonl", "next").rows[0]
    same = {"line": 1, "id": hashing.keyed_hash(row.content, secret), "decide": "keep"}
    write(world / "clean.decisions.jsonl", [same])
    with pytest.raises(InputError, match=r"line 1: next\.jsonl:1 cannot be kept: a row of request R1"):
        run(world)
    with pytest.raises(InputError, match="the ledger does not exist"):
        run(world, ledger=str(world / "nowhere"))
