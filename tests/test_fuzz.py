"""The fuzzer finds nothing in 300 cases, and finds each guard that was taken out."""

import importlib
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from expunge.files import reading

SEED = 3


@pytest.fixture(scope="module")
def fuzz() -> Any:
    folder = str(Path(__file__).parents[1] / "benchmarks")
    sys.path.insert(0, folder)
    yield importlib.import_module("fuzz")
    sys.path.remove(folder)


def test_no_case_is_at_fault(fuzz: Any) -> None:
    results = fuzz.run_all(300, SEED)
    assert [one for one in results if one.fault] == []
    assert set(Counter(one.kind for one in results)) == set(fuzz.KINDS)
    outcomes = Counter(one.outcome for one in results)
    assert outcomes["refused"] >= 200 and outcomes["accepted"] >= 10


def littering(file: Path, what: str) -> str:
    file.with_name("half-written").touch()
    return reading.read_text(file, what)


def echoing(text: str) -> Any:
    raise reading.NotJSON(f"found {text}", 1)


def unchecked(content: Any, kind: Any, where: str) -> Any:
    return kind(**dict.fromkeys(kind.__struct_fields__) | content)


BROKEN: dict[str, tuple[str, Any, tuple[str, ...], str]] = {
    "json": ("expunge.data.files.parse_json", json.loads, ("rows_deep",), "traceback"),
    "keys twice": ("expunge.data.files.parse_json", json.loads, ("rows_twice",), "wrong outcome"),
    "surrogates": ("expunge.data.turns.check_text", lambda *given: None, ("rows_surrogates",), "wrong outcome"),
    "yaml": (
        "expunge.files.strict_yaml.parse",
        lambda text, source: yaml.safe_load(text),
        ("recipe_deep",),
        "traceback",
    ),
    "records": ("expunge.reporting.record.taken", unchecked, ("record_entries",), "traceback"),
    "terminal": ("expunge.cli.ending.in_a_line", str, ("rows_names",), "message"),
    "names": ("expunge.data.forms.shown", repr, ("rows_surrogates",), "leak"),
    "row text": ("expunge.data.files.parse_json", echoing, ("rows_types",), "leak"),
    "litter": ("expunge.data.files.read_text", littering, ("rows_types",), "output"),
    "exit code": ("expunge.errors.InputError.exit_code", 1, ("rows_types",), "exit code"),
    "too strict": ("expunge.files.reading.BYTE_ORDER_MARK", b"", ("rows_plain",), "wrong outcome"),
}


@pytest.mark.parametrize("case", BROKEN, ids=str)
def test_each_guard_that_is_taken_out_is_found(fuzz: Any, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    place, broken, kinds, fault = BROKEN[case]
    monkeypatch.setattr(place, broken)
    count = 32 if case == "records" else 8  # most of them are refused before the guard, or are right all the same
    assert fault in {one.fault for one in fuzz.run_all(count, SEED, kinds)}


@pytest.mark.parametrize(
    ("said", "good"),
    [
        ("expunge: f.jsonl, line 3: not JSON. Each line must be one JSON object.\n", True),
        ("expunge: f.jsonl: the forget file holds no rows. Give it at least one.\n", True),
        ("expunge: f.jsonl: not JSON. Each line must be one JSON object.\n", False),
        ("expunge: line 3: not JSON. Each line must be one JSON object.\n", False),
        ("expunge: f.jsonl, line 3: not JSON.\n", False),
        ("expunge: f.jsonl, line 3: not JSON.\nEach line must be one.\n", False),
        ("expunge: f.jsonl, line 3: not JSON \x1b[2J. Each line must be one.\n", False),
        ("", False),
    ],
)
def test_what_a_message_must_hold(fuzz: Any, said: str, good: bool) -> None:
    case = fuzz.Case("rows_types", "refused", {"forget": "f.jsonl"}, "f.jsonl", lined=True)
    assert fuzz.explains(case, said) == good


def test_the_page_says_what_was_run(fuzz: Any) -> None:
    results = [fuzz.Result("rows_nul", 0, "refused"), fuzz.Result("rows_nul", 1, "traceback", "traceback")]
    page = fuzz.page(fuzz.summary(results, "python benchmarks/fuzz.py", 2.0))
    assert "| rows_nul | 2 | 1 | 0 | 1 |" in page and "traceback 1, hung 0" in page
