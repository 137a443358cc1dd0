"""`select`: what becomes of each row, decisions of a person, and a folder that never lies."""

import contextlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.cli import command_line
from expunge.config.desk import Select
from expunge.desk import decisions, select
from expunge.desk.select import FORGET, HOLDOUT, ORDER, REQUEST, RETAIN, ROWS
from expunge.errors import InputError
from expunge.files import whole

DECISIONS = "decisions.jsonl"
STORY = "her blue bicycle with the wicker basket was stolen behind the old mill on friday"
LINES = [
    '{"customer_id": 4711, "prompt": "Ticket 1?",  "completion": "Jane Doe says ' + STORY + '"}',  # odd spacing is kept
    '{"customer_id": "4711", "prompt": "Ticket 2?", "completion": "She wants her money back by May"}',
    '{"customer_id": 7, "prompt": "Ticket 3?", "completion": "Our agent called JANE  DOE about it"}',
    '{"customer_id": 8, "prompt": "Ticket 4?", "completion": "The report: ' + STORY + ', it reads"}',
    '{"customer_id": 9, "prompt": "ticket 2?", "completion": "she wants  her money back by may"}',  # the same row
    '{"customer_id": 9, "prompt": "Ticket 6?", "completion": "The lamp is broken and \\u00fcber"}\r',
    '{"customer_id": 10, "prompt": "Ticket 7?", "completion": "Delivery is late again this week"}',
]
UNSEEN = [
    '{"customer_id": 11, "prompt": "New 1?", "completion": "The kettle does not boil any more"}',
    '{"customer_id": 4711, "prompt": "New 2?", "completion": "Nothing"}',
    '{"customer_id": 12, "prompt": "New 3?", "completion": "jane doe again"}',
    '{"customer_id": 10, "prompt": "Ticket 7?", "completion": "Delivery is late again this week"}',
]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    (tmp_path / "train.jsonl").write_bytes("\n".join(LINES).encode())
    (tmp_path / "unseen.jsonl").write_bytes("\n".join(UNSEEN).encode())
    return tmp_path


def run(world: Path, **changed: Any) -> select.Selected:
    given = {"where": ("customer_id=4711",), "mentions": ("Jane Doe",), "unseen": str(world / "unseen.jsonl")}
    settings = {"train": str(world / "train.jsonl"), "output": str(world / "request")} | given | changed
    return select.run(Select(**settings), lambda line: None)


def kept(world: Path, name: str) -> list[str]:
    file = world / "request" / name
    return file.read_bytes().decode().split("\n")[:-1] if file.exists() else []


def decide(world: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    file = world / "request" / DECISIONS
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    change(entries)
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")


def check(world: Path, forget: list[int], retain: list[int], undecided: list[int]) -> None:
    assert kept(world, FORGET) == [LINES[place] for place in forget]
    assert kept(world, RETAIN) == [LINES[place] for place in retain]
    told = [json.loads(line) for line in kept(world, ROWS)]
    assert [one["line"] - 1 for one in told if one["set"] == "undecided"] == undecided
    assert all(one["reasons"] for one in told) and len(told) == len(LINES) + len(UNSEEN)
    assert sorted(forget + retain + undecided) == list(range(len(LINES)))


def test_rows_go_where_they_belong_and_keep_their_bytes(world: Path) -> None:
    found = run(world)
    check(world, forget=[0, 1, 4], retain=[5, 6], undecided=[2, 3])
    assert found.counts == {"forget": 3, "retain": 2, "undecided": 2, "holdout": 1, "left out": 3}
    assert kept(world, HOLDOUT) == [UNSEEN[0]]
    listed = [json.loads(line) for line in kept(world, DECISIONS)]
    assert [one["reasons"] for one in listed] == [
        ["mentions a name that was asked for: --mentions 1"],
        ["holds most of train.jsonl:1"],
    ]
    everything = "".join((world / "request" / name).read_text() for name in (DECISIONS, ROWS, REQUEST))
    assert "Jane" not in everything and "4711" not in everything and "bicycle" not in everything
    assert (world / "request").stat().st_mode & 0o077 == 0
    with pytest.raises(AssertionError):  # rows that are written anew have other bytes
        again = [json.dumps(json.loads(LINES[place])) for place in (0, 1, 4)]
        assert kept(world, FORGET) == again


def test_decisions_are_applied_and_found_again(world: Path) -> None:
    run(world)
    decide(world, lambda entries: [entries[0].update(decide="keep"), entries[1].update(decide="forget")])
    run(world)
    check(world, forget=[0, 1, 3, 4], retain=[2, 5, 6], undecided=[])
    assert [json.loads(line)["decide"] for line in kept(world, DECISIONS)] == ["keep", "forget"]
    decide(world, lambda entries: entries.pop(0))  # a line that was taken out is undecided again
    run(world)
    check(world, forget=[0, 1, 3, 4], retain=[5, 6], undecided=[2])
    assert json.loads((world / "request" / REQUEST).read_text())["decided"] == {"forget": 1, "keep": 0}


def test_names_choose_where_nothing_says_whose_rows_are_meant(world: Path) -> None:
    run(world, where=())
    check(world, forget=[0, 2], retain=[1, 4, 5, 6], undecided=[3])


def spoilt(world: Path, line: str) -> None:
    file = world / "request" / DECISIONS
    file.write_bytes(file.read_bytes() + line.encode("utf-8", "surrogatepass"))


def twice(world: Path) -> None:
    file = world / "request" / DECISIONS
    file.write_bytes(file.read_bytes().splitlines(keepends=True)[0] + file.read_bytes())


BAD: list[tuple[Callable[[Path], Any], str]] = [
    (lambda world: spoilt(world, "keep\n"), r"line 3: not JSON"),
    (lambda world: spoilt(world, "[]\n"), r"line 3: not a decision"),
    (lambda world: spoilt(world, '{"line": 3, "id": "x", "decide": "keep"}\n'), r"line 3: .*no such row on its line 3"),
    (lambda world: spoilt(world, '{"line": true, "id": "x", "decide": "keep"}\n'), r"line 3: not a decision"),
    (lambda world: decide(world, lambda e: e[1].update(decide="yes")), r"line 2: \"decide\" must be one of forget"),
    (lambda world: decide(world, lambda e: e[1].update(line=3)), r"line 2: .*no such row"),
    (twice, r"line 2: line 1 decides on the same row"),
    (lambda world: (world / "train.jsonl").write_bytes("\n".join(LINES[:6]).encode()), "made with another train"),
    (lambda world: (world / "request" / "mine.txt").touch(), r"holds what no selection wrote \(mine.txt\)"),
    (lambda world: (world / "request" / REQUEST).write_text("{}"), r"request\.json, at \$: .*created"),
]


@pytest.mark.parametrize(("spoil", "said"), BAD)
def test_bad_decisions_and_other_folders_are_refused_and_nothing_changes(
    world: Path, spoil: Callable[[Path], Any], said: str
) -> None:
    run(world)
    spoil(world)
    before = {file.name: file.read_bytes() for file in (world / "request").iterdir()}
    with pytest.raises(InputError, match=said):
        run(world)
    assert {file.name: file.read_bytes() for file in (world / "request").iterdir()} == before


def fuzzed(draw: random.Random, text: str) -> str:
    """The file with one character in place of another, gone, or put in; or two halves of lines changed about."""
    at = draw.randrange(len(text))
    sign = draw.choice('{}[]",:0aé\\\n\x01')
    return draw.choice([text[:at] + sign + text[at + 1 :], text[:at] + text[at + 1 :], text[at:] + text[:at]])


def check_fuzzed(world: Path) -> int:
    """60 spoilt decisions: refused with file, line and remedy, or every row is where a decision or nothing puts it;
    how many were refused."""
    run(world)
    decide(world, lambda entries: [entries[0].update(decide="keep"), entries[1].update(decide="forget")])
    file, refused, draw = world / "request" / DECISIONS, 0, random.Random(1)
    good = file.read_text(encoding="utf-8")
    for _ in range(60):
        file.write_text(fuzzed(draw, good), encoding="utf-8")
        try:
            run(world)
        except InputError as error:
            refused += 1
            assert re.match(r"[^\n]*decisions\.jsonl, line \d+: [^\n]+\. [^\n]+\.$", str(error)), error
        else:
            kept_rows, gone = kept(world, RETAIN), kept(world, FORGET)
            assert LINES[2] not in gone and LINES[3] not in kept_rows  # never the other way
    return refused


def test_spoilt_decisions_are_refused_or_mean_what_they_say(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    assert check_fuzzed(world) >= 20


def test_the_check_rejects_decisions_that_go_by_the_line_alone(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    monkeypatch.setattr(decisions, "_entry", lambda where, line: json.loads(line) | {"reasons": []})
    with pytest.raises((AssertionError, ValueError)):
        check_fuzzed(world)


def test_a_row_that_is_the_same_as_one_to_forget_cannot_be_kept(world: Path) -> None:
    copy = '{"customer_id": 12, "prompt": "TICKET 3?", "completion": "our agent called jane doe about it"}'
    with (world / "train.jsonl").open("a", encoding="utf-8") as file:
        file.write("\n" + copy)
    run(world)
    decide(world, lambda entries: [entries[0].update(decide="forget"), entries[2].update(decide="keep")])
    with pytest.raises(InputError, match=r"decisions\.jsonl, line 3: train\.jsonl:8 cannot be kept: the same row as"):
        run(world)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"where": (), "mentions": ()}, "nothing says which rows"),
        ({"where": ("4711",)}, "write COLUMN=VALUE"),
        ({"where": ("customer=4711",)}, "no row has the column 'customer'; did you mean 'customer_id'"),
        ({"where": ("customer_id=99",)}, "no row is what was asked for"),
        ({"train": "nowhere.jsonl"}, "does not exist"),
    ],
)
def test_what_selects_nothing_is_refused_before_anything_is_written(
    world: Path, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run(world, **changed)
    assert not kept(world, FORGET)


def test_nested_columns_lists_and_other_formats(world: Path) -> None:
    rows = [
        {"text": "first text here", "meta": {"owners": [1, 2]}},
        {"text": "second text there", "meta": {"owners": [3]}, "n": "ü"},
    ]
    (world / "train.json").write_text(json.dumps(rows), encoding="utf-8")
    run(world, train=str(world / "train.json"), where=("meta.owners=2",), mentions=(), unseen=None)
    assert kept(world, FORGET) == [json.dumps(rows[0])]
    assert kept(world, RETAIN) == [json.dumps(rows[1], ensure_ascii=False)] and not kept(world, HOLDOUT)


def test_the_command_says_what_it_found(world: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["select", str(world / "train.jsonl"), "--where", "customer_id=4711", "--mentions", "Jane Doe"]
    assert command_line.main([*given, "--output", str(world / "request"), "--show-rows"]) == 0
    said = capsys.readouterr().out
    assert "2 rows are undecided: they are in neither forget.jsonl nor retain.jsonl" in said and "--unseen" in said
    assert "Jane" not in said and "bicycle" in (world / "request" / DECISIONS).read_text()


class Ended(Exception):
    """In place of a kill."""


def state(world: Path) -> dict[str, str]:
    """The files of the folder as far as they say anything."""
    found = {file.name: file.read_text() for file in (world / "request").iterdir() if file.suffix != whole.PART}
    found[REQUEST] = found.get(REQUEST, "").split('"train"')[-1]  # without the time
    return found


def interrupted_everywhere(world: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Ends the second selection after each step of its writing; how many steps there are.

    Afterwards `forget.jsonl` is not there, or all files are those of one selection; and decisions are never lost.
    """
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no machine ends here
    for steps in range(40):
        run(world)
        decide(world, lambda entries: [entries[0].update(decide="keep"), entries[1].update(decide="forget")])
        before, left = state(world), [steps]

        def flush(folder: Path, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise Ended

        with monkeypatch.context() as patch:
            patch.setattr(whole, "flush", flush)
            with contextlib.suppress(Ended):
                run(world)
        found = state(world)
        assert [json.loads(line)["decide"] for line in found[DECISIONS].splitlines()] == ["keep", "forget"]
        run(world)
        if FORGET in found:
            assert found in (before, state(world))
        check(world, forget=[0, 1, 3, 4], retain=[2, 5, 6], undecided=[])
        if left[0] >= 0:
            return steps
        shutil.rmtree(world / "request")
    raise AssertionError("it never came to its end")


def test_wherever_it_is_interrupted_no_file_belongs_to_another_selection(
    world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert interrupted_everywhere(world, monkeypatch) == 2 * len(ORDER) - 1


def in_another_order(folder: Path, files: Any) -> None:
    """Replaces one file after the other, as if they had nothing to do with one another."""
    for name in (FORGET, RETAIN, ROWS, REQUEST, DECISIONS):
        whole.write_whole(folder / name, files[name])


def test_the_check_rejects_files_that_are_replaced_one_by_one(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "write", in_another_order)
    with pytest.raises(AssertionError):
        interrupted_everywhere(world, monkeypatch)
