"""Thousands of broken row files, recipes and records through the real checking path, and what came of them.

    python benchmarks/fuzz.py --cases 2000 --output docs/results

Each case is a folder with one spoilt file (see `fuzz_cases.py` and `fuzz_rows.py`), given to `run_unlearn` (rows) or to
the command line (all else) in this process, with a model folder that exists and must never be loaded. A case is at
fault where there is a traceback, where anything was written, where the exit code is not 2, where the message is not one
line with file, line and remedy or holds text of a row, where a file that is right was refused or one that is wrong
accepted, and where it computed for over 20 seconds or took five minutes. Ends with 1 where any case is at fault. The
limit for rows that unpack is lowered to 64 MiB, so that bombs cost no memory.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from expunge import pipeline
from expunge.cli import command_line
from expunge.config.commands import Unlearn
from expunge.data import tables
from expunge.demo.tiny import byte_tokenizer, llama
from expunge.errors import ExpungeError
from expunge.files.visible import in_a_line, unsafe
from expunge.model import load
from expunge.runs.environment import environment
from fuzz_cases import KINDS, RECIPES, ROWS, Case, make
from fuzz_rows import ACCEPTED, EITHER, REFUSED, SECRET

ROOT = Path(__file__).resolve().parents[1]
SECONDS = 20
UNPACKED = 64 << 20
TRACE = "Traceback (most recent call last)"
FAULTS = ("traceback", "hung", "output", "exit code", "message", "leak", "wrong outcome")
WHOLE = re.compile(  # messages about a file as a whole, which name no line
    "does not exist|cannot be read|holds no rows|must end in|unpack to|expected a JSON array|expected keys and values|"
    "also in the|to keep|nothing that the model never saw"
)
SETTING = re.compile(
    r"unknown key|must be |--\w|given: \w|no \w+ '|the \w+ (file|rows) do|options|which is not|over 63 bits|too many"
)
REMEDY = re.compile(r"[.?;] [A-Z\"`(]|must be |did you mean|Known:|known:|expected ")


class Reached(BaseException):  # not an Exception, so that nothing in between takes it for a failure
    """All checks were passed: a model would be loaded now."""


class Hung(BaseException):
    """A case took too long."""


@dataclass(frozen=True)
class Result:
    """What came of a case; `fault` is empty where that is as it should be."""

    kind: str
    seed: int
    outcome: str
    fault: str = ""
    detail: str = ""


def example() -> Any:
    """A right record: the one that the tests of the reports use."""
    spec = importlib.util.spec_from_file_location("record_example", ROOT / "tests" / "reporting" / "conftest.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    with mock.patch.object(sys, "path", [*sys.path, str(ROOT / "tests")]):  # where what it imports lies
        spec.loader.exec_module(module)
    return json.loads(json.dumps(module.build_record(rows=7, retain=12)))


def model_folder(folder: Path) -> Path:
    """A folder that passes every look at it."""
    tokenizer = byte_tokenizer([], 258)
    llama(tokenizer, width=16, layers=1, heads=2, context=64, seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@contextlib.contextmanager
def guarded() -> Iterator[None]:
    """No model can be loaded, and nothing computes for longer than `SECONDS` or waits for long."""

    def reached(*given: Any, **named: Any) -> None:
        raise Reached

    def hung(*given: Any) -> None:
        raise Hung

    before = [(one, signal.signal(one, hung)) for one in (signal.SIGALRM, signal.SIGPROF)]
    signal.alarm(15 * SECONDS)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        with (
            mock.patch.object(load, "tokenizer_of", reached),
            mock.patch.object(load, "model_of", reached),
            mock.patch.object(tables, "MOST_BYTES", UNPACKED),
        ):
            yield
    finally:
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for one, handler in before:
            signal.signal(one, handler)


def run(kind: str, seed: int, model: Path, record: Any, folder: Path) -> Result:
    """Makes a case in an empty folder, runs it, and judges what came of it."""
    case = make(kind, seed, folder, record)
    before = listing(folder)
    stdout, stderr = io.StringIO(), io.StringIO()
    code: int | None = None
    try:
        with guarded(), contextlib.redirect_stdout(stdout), contextlib.redirect_stderr(stderr):
            code = call(case, flags(case, model, folder))
        outcome = ACCEPTED if code == 0 else REFUSED
    except Reached:
        outcome = ACCEPTED
    except Hung:
        return Result(kind, seed, "hung", "hung")
    except BaseException as error:
        return Result(kind, seed, "traceback", "traceback", f"{type(error).__name__}: {str(error)[:100]}")
    if TRACE in stderr.getvalue():
        return Result(kind, seed, "traceback", "traceback", stderr.getvalue().splitlines()[-1][:100])
    new = [name for name in listing(folder) if name not in before]
    fault, detail = judge(case, outcome, code, stderr.getvalue(), stdout.getvalue(), new)
    return Result(kind, seed, outcome, fault, detail)


def call(case: Case, given: dict[str, str]) -> int:
    """The exit code. Of rows, the parser of the command line is left out, which takes ten times as long as they do."""
    if case.kind not in ROWS or case.kind == "rows_names":
        return command_line.main(
            [case.command, *(part for flag, value in given.items() for part in (f"--{flag}", value))]
        )
    try:
        pipeline.run_unlearn(Unlearn(**given))  # type: ignore[arg-type]  # flags that take text
    except ExpungeError as error:
        print(f"expunge: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def flags(case: Case, model: Path, folder: Path) -> dict[str, str]:
    given = {flag: str(folder / name) for flag, name in case.files.items()} | {"output": str(folder / "out")}
    if case.command == "unlearn":
        given |= {"model": str(model), "holdout": str(folder / "holdout.jsonl")}
    return given


def judge(case: Case, outcome: str, code: int | None, said: str, printed: str, new: list[str]) -> tuple[str, str]:
    """The first fault, with what shows it; empty where there is none."""
    if case.expected not in (EITHER, outcome):
        return "wrong outcome", f"{outcome}, not {case.expected}: {said[:200]}"
    if SECRET in said + printed:
        return "leak", said[:200]
    if outcome == ACCEPTED:
        whole = {"out", "out/report.html", "out/report.md"} if case.command == "report" else set()
        return ("", "") if set(new) == whole else ("output", f"{new}")
    if new:
        return "output", f"{new}"
    if code != 2:
        return "exit code", f"{code}: {said[:200]}"
    return ("", "") if explains(case, said) else ("message", said[:300])


def explains(case: Case, said: str) -> bool:
    """Whether a message is one line that names file, line (or setting) and remedy, and steers no terminal."""
    line = said.removesuffix("\n")
    named = in_a_line(case.named) in line
    if case.kind in RECIPES:
        named, place = named or bool(SETTING.search(line)), bool(re.search(r", line \d", line) or SETTING.search(line))
    else:
        place = not case.lined or bool(re.search(r", (line|row) \d", line))
    whole = bool(WHOLE.search(line))
    plain = "\n" not in line and not any(unsafe(sign) for sign in line)
    return line.startswith("expunge: ") and plain and named and (place or whole) and bool(REMEDY.search(line))


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def run_all(count: int, seed: int, kinds: tuple[str, ...] = KINDS) -> list[Result]:
    """So many cases, the kinds in turn."""
    results = []
    with tempfile.TemporaryDirectory(prefix="expunge-fuzz-") as made:
        model, record = model_folder(Path(made) / "model"), example()
        own = {"XDG_CONFIG_HOME": made, "EXPUNGE_CACHE": str(Path(made) / "cache"), "EXPUNGE_DATA": ""}
        with mock.patch.dict(os.environ, own):
            for turn in range(count):
                folder = Path(made) / "case"
                folder.mkdir()
                results.append(run(kinds[turn % len(kinds)], seed * count + turn // len(kinds), model, record, folder))
                shutil.rmtree(folder)
                shutil.rmtree(own["EXPUNGE_CACHE"], ignore_errors=True)  # accepted runs are stopped, and could go on
    return results


def page(content: dict[str, Any]) -> str:
    """The results as Markdown."""
    rows = []
    for kind, found in content["outcomes"].items():
        counts = (sum(found.values()), *(found.get(name, 0) for name in (REFUSED, ACCEPTED)))
        rows.append(f"| {kind} | " + " | ".join(map(str, (*counts, content["faults"].get(kind, 0)))) + " |")
    faults = ", ".join(f"{name} {content['by_fault'].get(name, 0)}" for name in FAULTS)
    return "\n".join(
        [
            "# Hostile input",
            "",
            f"    {content['command']}",
            "",
            f"{content['cases']} files of {len(KINDS)} kinds (`benchmarks/fuzz_cases.py`, `benchmarks/fuzz_rows.py`):",
            "rows through `run_unlearn`; recipes, records and odd file names through the command line, in one process.",
            "The kinds that end in `plain` are right and must be accepted; of the others, chance leaves some right.",
            "",
            f"Faults: {faults}.",
            "",
            "*Refused*: exit code 2, nothing written, one line with file, line and remedy, no text of a row.",
            "*Accepted*: all checks were passed and a model would have been loaded, or the report was written.",
            f"Machine: {content['machine']}.",
            "",
            "| kind | cases | refused | accepted | faults |",
            "| --- | ---: | ---: | ---: | ---: |",
            *rows,
            "",
        ]
    )  # fmt: skip


def summary(results: list[Result], command: str, seconds: float) -> dict[str, Any]:
    outcomes = {kind: Counter(one.outcome for one in results if one.kind == kind) for kind in KINDS}
    return {
        "command": command,
        "cases": len(results),
        "by_fault": Counter(one.fault for one in results if one.fault),
        "faults": Counter(one.kind for one in results if one.fault),
        "outcomes": outcomes,
        "machine": environment()["machine"],
        "seconds": round(seconds),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(KINDS), help="only these")
    parser.add_argument("--output", type=Path, help="folder for fuzz.md and fuzz.json")
    given = parser.parse_args()
    began = time.monotonic()
    results = run_all(given.cases, given.seed, tuple(given.kinds))
    for one in results:
        if one.fault:
            print(f"{one.kind} {one.seed}: {one.fault}: {in_a_line(one.detail)}")
    command = f"python benchmarks/fuzz.py --cases {given.cases} --seed {given.seed} --output docs/results"
    content = summary(results, command, time.monotonic() - began)
    print({"cases": len(results), **content["by_fault"]})
    if given.output:
        (given.output / "fuzz.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        (given.output / "fuzz.md").write_text(page(content), encoding="utf-8")
    return 1 if content["by_fault"] else 0


if __name__ == "__main__":
    sys.exit(main())
