"""Kills select, the ledger and seal at random moments, gives the same command again, and looks at what is there.

    OMP_NUM_THREADS=1 python benchmarks/desk_kills.py [--kills 100] [--seed 0]

Each command runs in a process of its own that gets SIGKILL after a time drawn evenly from that of an undisturbed one.
After every kill: a selection whose forget.jsonl is there has all rows once, by the decisions of a person, which are
never lost; the ledger can be read and holds every entry that was reported, and at most one more; a request that is
sealed has nothing left, and the same command seals one that is not. No model is loaded. About a minute on two cores
for 100 kills of each.
"""

import argparse
import json
import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fuzz
from expunge.cli import command_line
from expunge.data.rows import read
from expunge.desk import decisions, select
from expunge.files import hashing, plain_json
from expunge.records import ledger
from expunge.reporting.entries import Judged, Opened, Ran
from expunge.runs import workspace

ROWS, PASTED = 300, 12
REQUEST = "R1"
Check = Callable[[Path], list[str]]


@dataclass
class Found:
    """What was seen of one command: how often it was killed before its end, and every fault."""

    name: str
    kills: int = 0
    faults: list[str] = field(default_factory=list)


def killed(work: Callable[[], Any], after: float) -> bool:
    """Runs it in a process of its own that is killed after a time; whether that came before its end."""
    child = os.fork()
    if not child:
        with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
            work()
        os._exit(0)
    ends = time.monotonic() + after
    while time.monotonic() < ends:
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def kill_often(
    name: str, kills: int, draw: random.Random, begin: Callable[[], Path], work: Callable[[Path], Any], check: Check
) -> Found:
    """Begins anew after each end, and looks after each kill and each end. `check`: the faults of what is there."""
    found, folder = Found(name), begin()
    started = time.monotonic()
    killed(lambda: work(folder), 60.0)
    took = time.monotonic() - started
    found.faults += check(folder)
    folder = begin()
    tries = 0
    while found.kills < kills and tries < 4 * kills:
        tries += 1
        before_end = killed(lambda folder=folder: work(folder), draw.uniform(0, took))  # type: ignore[misc]
        found.kills += before_end
        found.faults += check(folder)
        if not before_end:
            folder = begin()
    return found


def selection(root: Path) -> Path:
    """A training file with a selection that a person has decided on, so that the next one changes every file."""
    folder = Path(tempfile.mkdtemp(dir=root))
    lines = [
        {"owner": n, "prompt": f"case {n}?", "completion": f"item {n * 7919 % 9973} stands on shelf {n}"}
        for n in range(ROWS)
    ]
    story = "a blue bicycle with a wicker basket was stolen behind the old mill on friday"
    lines[0]["completion"] = story
    for n in range(PASTED):
        lines[20 + n]["completion"] = f"copy {n}: {story}"
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    work_select(folder)
    file = folder / "request" / decisions.NAME
    entries = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    for n, entry in enumerate(entries):
        entry["decide"] = ("forget", "keep")[n % 2]
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    return folder


def work_select(folder: Path) -> None:
    given = [str(folder / "train.jsonl"), "--where", "owner=0", "--output", str(folder / "request")]
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        assert command_line.main(["select", *given]) == 0


def check_select(folder: Path) -> list[str]:
    request = folder / "request"
    said = [json.loads(line)["decide"] for line in (request / decisions.NAME).read_text().splitlines()]
    faults = [] if said == ["forget", "keep"] * (PASTED // 2) else [f"decisions are lost: {len(said)}"]
    if (request / select.FORGET).exists():
        count = {name: len((request / name).read_text().splitlines()) for name in (select.FORGET, select.RETAIN)}
        told = [json.loads(line)["set"] for line in (request / select.ROWS).read_text().splitlines()]
        by_group = json.loads((request / select.REQUEST).read_text())["counts"]
        same = count == {select.FORGET: told.count("forget"), select.RETAIN: told.count("retain")}
        if not (same and sum(by_group.values()) == ROWS and by_group["forget"] == told.count("forget")):
            faults.append(f"files of two selections: {count}, {by_group}")
    return faults


def begun_ledger(root: Path) -> Path:
    folder = Path(tempfile.mkdtemp(dir=root))
    with ledger.held(folder / "ledger", "desk_kills"):
        return folder


def work_ledger(folder: Path) -> None:
    """Twenty entries, each reported once it is there."""
    with ledger.held(folder / "ledger", "desk_kills") as (known, _):
        for _ in range(20):
            entry = Opened(request=REQUEST, date=ledger.now(), rows=(), file="", content="", selection=None)
            known = known.with_entry(entry)
            with (folder / "reported").open("a") as file:
                file.write("1")


def check_ledger(folder: Path) -> list[str]:
    known = ledger.read(folder / "ledger")
    there = sum(len(one.entries) for one in known.requests.values())
    file = folder / "reported"
    reported = len(file.read_text()) if file.exists() else 0
    faults = [] if 0 <= there - reported <= 1 else [f"{there} entries, {reported} reported"]
    file.write_text("1" * there)
    return faults


def served(root: Path) -> Path:
    """A run that served a request, with what holds its rows, none of which is looked into."""
    folder = Path(tempfile.mkdtemp(dir=root))
    os.environ["EXPUNGE_CACHE"] = str(folder / "cache")
    (folder / "forget.jsonl").write_text(
        '{"prompt": "who?", "completion": "somebody in particular"}\n', encoding="utf-8"
    )
    for place in ("out/expunge/evidence", "cache/twins/a", "cache/twins/b", "cache/cells", "cache/evidence"):
        (folder / place).mkdir(parents=True)
        for n in range(20):
            (folder / place / f"{n}.npz").write_bytes(b"rows" * 100)
    (workspace.run_folder(folder / "half") / "checkpoint").write_bytes(b"rows" * 100)
    rows = ledger.marks(read(folder / "forget.jsonl", "forget").rows, hashing.key())
    file = folder / "out" / "expunge" / "record.json"
    plain_json.write_json(file, _record(folder))
    with ledger.held(folder / "ledger", "desk_kills") as (known, _):
        given = {"request": REQUEST, "date": ledger.now()}
        opened = Opened(**given, rows=rows, file=str(folder / "forget.jsonl"), content="", selection=None)
        known = known.with_entry(opened)
        told = Judged("1 of 1 rows", "forgotten", "kept", {})
        run = {"path": str(folder / "out"), "record": hashing.full_hash(file), "passes": True, "verdict": told}
        known.with_entry(Ran(**given, **run, hashes={}, again={}))
    return folder


def work_seal(folder: Path) -> None:
    given = [str(folder / "out"), "--ledger", str(folder / "ledger"), "--remove-rows", "--yes"]
    assert command_line.main(["seal", *given]) in (0, 2)  # 2: it is sealed already


def check_seal(folder: Path) -> list[str]:
    state = ledger.read(folder / "ledger").requests[REQUEST].state
    places = [folder / "cache" / name for name in ("twins", "cells", "evidence")]
    places += [folder / "out" / "expunge" / "evidence", folder / "forget.jsonl"]
    left = [place for place in (*places, *(folder / "cache" / "state" / "runs").iterdir()) if place.exists()]
    if state == "sealed" and left:
        return [f"sealed, and {len(left)} things are left"]
    return [f"{state}, and something is gone"] if state == "served" and len(left) < 6 else []


def _record(folder: Path) -> dict[str, Any]:
    """A right record: the one that the tests of the reports use."""
    config = {"model": str(folder / "model"), "forget": str(folder / "forget.jsonl")}
    return fuzz.example() | {"config": config, "files": {}, "holders": []}


def run_all(kills: int, seed: int, root: Path) -> list[Found]:
    """Each of the three killed so many times, below a folder that has its own key and caches."""
    os.environ["XDG_CONFIG_HOME"] = str(root / "settings")
    draw = random.Random(seed)
    return [
        kill_often("select", kills, draw, lambda: selection(root), work_select, check_select),
        kill_often("ledger", kills, draw, lambda: begun_ledger(root), work_ledger, check_ledger),
        kill_often("seal", kills, draw, lambda: served(root), work_seal, check_seal),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    root = Path(tempfile.mkdtemp(prefix="desk-kills-"))
    try:
        found = run_all(given.kills, given.seed, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    for one in found:
        print(f"{one.name}: {one.kills} kills, {len(one.faults)} faults {one.faults[:3] or ''}")
    return int(any(one.faults for one in found))


if __name__ == "__main__":
    raise SystemExit(main())
