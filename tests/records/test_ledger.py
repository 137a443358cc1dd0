"""The ledger: what it holds and does not, that nobody else writes it, and that one process at a time does."""

import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.cli import command_line
from expunge.data.rows import Row
from expunge.errors import InputError
from expunge.files import hashing, whole
from expunge.files.typed import plain
from expunge.records import ledger
from expunge.reporting.entries import Judged, Opened, Ran, Sealed, Sealing

ROWS = [
    Row("train.jsonl", 1, "answer", "Who?", "Jane Doe of Ostend bought the silver crane for nine hundred guilders"),
    Row("train.jsonl", 2, "answer", "When?", "yes"),
]
SENTENCE = "2 of 2 rows are forgotten; the rest of the model is as before."
VERDICT = Judged(SENTENCE, "forgotten", "kept", {"forgotten": 2})
Reader = Callable[[Path], Any]


def opened(request: str, rows: list[Row]) -> Opened:
    marks = ledger.marks(rows, hashing.key())
    return Opened(request=request, date=ledger.now(), rows=marks, file="f", content="c", selection=None)


def ran(request: str, passes: bool = True, path: str = "/runs/out") -> Ran:
    given: dict[str, Any] = {"request": request, "date": ledger.now(), "path": path, "record": "r", "passes": passes}
    return Ran(**given, verdict=VERDICT, hashes={}, again={})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two requests, of which one is served."""
    with ledger.held(tmp_path / "ledger", "a test") as (known, said):
        assert not said and not known.requests
        known = known.with_entry(opened("R1", ROWS))
        known = known.with_entry(ran("R1", passes=False)).with_entry(ran("R1"))
        known.with_entry(opened("R2", ROWS[:1]))
    return tmp_path / "ledger"


def test_requests_are_open_until_a_run_passes_and_sealed_at_the_end(folder: Path) -> None:
    known = ledger.read(folder)
    assert {one.id: one.state for one in known.requests.values()} == {"R1": "served", "R2": "open"}
    assert known.requests["R1"].run == known.requests["R1"].of(Ran)[1] and known.requests["R2"].run is None
    with ledger.held(folder, "a test") as (known, _):
        known = known.with_entry(Sealing(request="R1", date=ledger.now(), remove=()))
        end = Sealed(request="R1", date=ledger.now(), removed=(), elsewhere=(), forced=False)
        states = [one.requests["R1"].state for one in (known, known.with_entry(end))]
    assert states == ["sealing", "sealed"]


@pytest.mark.parametrize(
    ("spoilt", "words"),
    [
        ({"passes": "yes"}, r"at \$\.passes: Expected bool, got str"),
        ({"event": "lost"}, r"at \$\.event: "),
        ({"text": "a row"}, r"at \$: an unknown key, 'text'"),
    ],
)
def test_an_entry_of_another_form_is_refused_also_under_a_right_mark(
    folder: Path, spoilt: dict[str, Any], words: str
) -> None:
    """As another version may have written it."""
    known = ledger.read(folder)
    ledger._write(folder, known.lines, plain(ran("R2")) | spoilt, known.mark, known.secret)
    with pytest.raises(InputError, match=rf"ledger\.jsonl, line 6, {words}"):
        ledger.read(folder)


def test_it_holds_no_text_and_half_of_the_runs(folder: Path) -> None:
    text = (folder / ledger.NAME).read_text(encoding="utf-8")
    assert not re.search("Jane|Ostend|guilders|yes", text)
    one, short = ledger.read(folder).requests["R1"].opened.rows
    grams = len(ROWS[0].completion.split()) + 1 - 2  # with the question, three words each
    assert one.of == grams and len(one.runs) == (grams + 1) // 2 <= ledger.MOST_RUNS
    assert short.of == len(short.runs) == 1
    assert one.id != one.same
    shouted = Row("other.jsonl", 9, "answer", "WHO?", ROWS[0].completion.upper().replace(" ", "  "))
    assert ledger.same_row(shouted, hashing.key()) == one.same
    assert ledger.marks([shouted], hashing.key())[0].runs == one.runs


def spoil(draw: random.Random, lines: list[str]) -> list[str]:
    """One change of any kind, never none: a byte, a line gone (but the last), two changed about, a word in place."""
    kind, place = draw.randrange(5), draw.randrange(len(lines))
    line = lines[place]
    if kind == 0:
        at = draw.randrange(len(line))
        return [*lines[:place], line[:at] + chr((ord(line[at]) + 1) % 128) + line[at + 1 :], *lines[place + 1 :]]
    if kind == 1:
        return [*lines[: max(0, place - 1)], *lines[max(0, place - 1) + 1 :]]
    if kind == 2:
        return [*lines[:place], line, *lines[place:]]
    if kind == 3:
        return [
            *lines[:place],
            line.replace("true", "false").replace("R1", "R3").replace("20", "19"),
            *lines[place + 1 :],
        ]
    return [*lines[:place], draw.choice(["[]", "{}", "1", "", "{", '{"mark": 3}']), *lines[place + 1 :]]


def check_refuses(folder: Path, read: Reader) -> None:
    """150 spoilt ledgers, each refused in one line with file, line and remedy."""
    file = folder / ledger.NAME
    good = file.read_text(encoding="utf-8")
    draw = random.Random(0)
    for _ in range(150):
        file.write_text("".join(f"{line}\n" for line in spoil(draw, good.splitlines())), encoding="utf-8")
        with pytest.raises(InputError, match=r"^[^\n]*ledger\.jsonl, line \d[^\n]*\. [^\n]*\.$"):
            read(folder)
    for cut in (good[:-1], good[: len(good) // 2], ""):
        file.write_text(cut, encoding="utf-8")
        with pytest.raises(InputError, match=r"line \d+: .*cut off"):
            read(folder)
    file.write_text(good, encoding="utf-8")
    read(folder)


def test_whatever_was_changed_is_refused(folder: Path) -> None:
    check_refuses(folder, ledger.read)


def test_the_check_rejects_a_reader_without_marks(folder: Path) -> None:
    def trusting(folder: Path) -> list[Any]:
        return [
            ledger._entry(folder / ledger.NAME, 1, line) for line in (folder / ledger.NAME).read_text().split("\n")[:-1]
        ]

    with pytest.raises(pytest.fail.Exception):
        check_refuses(folder, trusting)


def test_another_key_is_told(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "other"))
    with pytest.raises(InputError, match=r"another key.*row-hash\.key"):
        ledger.read(folder)


def test_one_process_at_a_time_and_a_dead_one_is_told(folder: Path) -> None:
    with ledger.held(folder, "unlearn --request R9"):
        with (
            pytest.raises(
                InputError, match=r"another process has this ledger \(process \d+, unlearn --request R9, since"
            ),
            ledger.held(folder, "a test"),
        ):
            raise AssertionError
        assert ledger.read(folder).requests  # to read it is free
    with ledger.held(folder, "a test") as (_, said):
        assert said == ""
    child = os.fork()
    if not child:
        with ledger.held(folder, "seal"):
            os._exit(9)
    os.waitpid(child, 0)
    with ledger.held(folder, "a test") as (_, said):
        assert f"process {child}, seal, since" in said and "ended before it was done" in said


def test_an_entry_that_was_interrupted_is_there_or_not(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / ledger.NAME).read_bytes()

    def ended(file: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, ledger.held(folder, "a test") as (known, _):
        patch.setattr(whole, "place", ended)
        with pytest.raises(KeyboardInterrupt):
            known.with_entry(ran("R2"))
    assert (folder / ledger.NAME).read_bytes() == before and ledger.read(folder).requests["R2"].state == "open"


def test_the_command_lists_requests(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line.main(["ledger", str(folder)]) == 0
    assert re.search(r"^R1: served, 2 rows, opened \d{4}.*/runs/out: 2 of 2 rows", capsys.readouterr().out)
    assert command_line.main(["ledger", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [one["state"] for one in told["requests"]] == ["served", "open"]
    assert command_line.main(["ledger", str(folder / "none")]) == 2
