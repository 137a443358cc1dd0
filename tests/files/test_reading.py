"""Files that somebody else wrote: what is no regular file of strict text, JSON or YAML is refused, with its line."""

import json
import os
import signal
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from expunge.config import recipes
from expunge.data.rows import read
from expunge.errors import InputError
from expunge.files import reading, strict_yaml
from expunge.files.visible import in_a_line, unsafe, visible
from expunge.records import record

often = settings(
    max_examples=60, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
FLOATS = some.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)  # libraries round those to 0
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | FLOATS | some.text(),
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(some.text(), inner, max_size=3),
    max_leaves=12,
)
ANY_TEXT = some.text(some.characters(codec=None, exclude_categories=()))  # half surrogate pairs too


@pytest.fixture
def in_time() -> Iterator[None]:
    """Fails, in place of waiting for ever."""

    def late(*given: Any) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def a_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


NO_FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "pipe": (os.mkfifo, "it is a pipe"),
    "folder": (os.mkdir, "folder"),
    "socket": (a_socket, "it is a socket"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
    "loop": (lambda path: path.symlink_to(path.name), "symbolic links"),
    "nothing": (lambda path: path.symlink_to("nowhere"), "does not exist"),
}
READERS: dict[str, Callable[[Path], Any]] = {
    "rows.jsonl": lambda path: read(path, "forget"),
    "rows.json": lambda path: read(path, "forget"),
    "rows.csv": lambda path: read(path, "forget"),
    "rows.parquet": lambda path: read(path, "forget"),
    "recipe.yaml": recipes.read_yaml,
    "record.json": record.read,
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path: Path, in_time: None, kind: str, name: str) -> None:
    make, words = NO_FILES[kind]
    make(tmp_path / name)
    if (kind, name) == ("folder", "record.json"):
        words = "does not exist"  # the record is looked for in the folder
    with pytest.raises(InputError, match=words) as caught:
        READERS[name](tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_too_much_and_too_long(tmp_path: Path) -> None:
    (tmp_path / "r.jsonl").write_text("{}" * 10)
    with pytest.raises(InputError, match="is the most"):
        reading.read_text(tmp_path / "r.jsonl", "the file", most=19)
    assert reading.read_text(tmp_path / "r.jsonl", "the file", most=20)
    for path in ("a" * 300, "a/" * 2001):
        with pytest.raises(InputError, match="too many for a path"):
            reading.check_name(path, "given: model")
    reading.check_name("a/" * 1000 + "é" * 127, "given: model")


def test_a_line_of_ten_megabytes(tmp_path: Path) -> None:
    text = "word " * 2_000_000 + "end"
    (tmp_path / "r.jsonl").write_text(json.dumps({"text": text}) + "\n{")
    with pytest.raises(InputError, match="line 2: not JSON"):
        read(tmp_path / "r.jsonl", "forget")
    (tmp_path / "r.jsonl").write_text(json.dumps({"text": text}))
    assert read(tmp_path / "r.jsonl", "forget").rows[0].completion == text


def check_strict(parse: Callable[[str], Any]) -> None:
    """What is JSON is read as it stands, and what only Python takes for JSON is not."""
    for text in (
        '{"a": 1, "a": 1}',
        '[{"b": {"a": 1, "a": 2}}]',
        "NaN",
        "[-Infinity]",
        "1e999",
        "[" * 5000,
        "1" * 5000,
    ):
        with pytest.raises(reading.NotJSON):
            parse(text)
    assert parse('[1, -2.5e3, "\\ud83d\\ude00", {"a": null, "b": true}]') == [1, -2500.0, "😀", {"a": None, "b": True}]


def test_strict_json() -> None:
    check_strict(reading.parse_json)


@pytest.mark.parametrize("broken", [json.loads, lambda text: json.loads(text, parse_constant=reading._no_number)])
def test_strictness_check_rejects(broken: Callable[[str], Any]) -> None:
    with pytest.raises((AssertionError, ValueError, RecursionError, pytest.fail.Exception)):
        check_strict(broken)


@pytest.mark.parametrize("wrong", ['{"a": 1, "a": 2}', "NaN", '{"b": [' + "[" * 5000, "1" * 5000])
def test_the_line_of_a_wrong_element(wrong: str) -> None:
    with pytest.raises(reading.NotJSON) as caught:
        reading.parse_json(f'[{{"a": 1}},\n\n {{"a": [2]}},\n{wrong}, 5]')
    assert caught.value.line == 4


@often
@given(JSON)
def test_any_json_is_read_as_it_stands(value: Any) -> None:
    assert reading.parse_json(json.dumps(value)) == value
    assert reading.parse_json(json.dumps(value, ensure_ascii=False, indent=1)) == value


def refused_or_read(name: str, raw: bytes) -> None:
    """A file of any content gives rows or one message that names the file."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(raw)
        try:
            READERS[name](path)
        except InputError as error:
            assert str(path) in str(error)


@often
@given(some.sampled_from(sorted(set(READERS) - {"rows.parquet"})), some.binary(max_size=200))
def test_any_bytes(name: str, raw: bytes) -> None:
    refused_or_read(name, raw)


@often
@given(some.sampled_from(["recipe.yaml", "rows.csv"]), some.text(some.sampled_from("a1 :-?[]{},&*!|>'\"%@\n\t#<~.=")))
def test_any_marks(name: str, text: str) -> None:
    refused_or_read(name, text.encode())


@often
@given(some.sampled_from(["text", "messages", "prompt", "task", "id"]), JSON)
def test_any_values_in_a_row(column: str, value: Any) -> None:
    row = {"text": "a"} | {column: value}
    refused_or_read("rows.jsonl", json.dumps(row).encode())


@often
@given(some.text().filter(str.strip), some.booleans())
def test_any_text_is_kept(text: str, windows: bool) -> None:
    """From right to left, of any script, with line ends in it: a row is what was written."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows.jsonl"
        content = json.dumps({"text": text}, ensure_ascii=windows) + ("\r\n" if windows else "\n")
        path.write_bytes((b"\xef\xbb\xbf" if windows else b"") + content.encode())
        assert read(path, "forget").rows[0].completion == text


@often
@given(ANY_TEXT)
def test_no_text_steers_a_terminal(text: str) -> None:
    shown = in_a_line(text)
    shown.encode("utf-8")
    assert "\n" not in shown and not any(unsafe(sign) for sign in shown + visible(text))
    assert in_a_line(shown) == shown


WRONG_YAML = {
    "laughs": ("a: &a [x]\nb: &b [*a, *a]\n", 2, "alias"),
    "cycle": ("a: &a [*a]\n", 1, "alias"),
    "twice": ("a: 1\nb:\n  c: 1\n  c: 2\n", 4, "twice"),
    "deep": ("a: 1\nb: " + "[" * 500, 2, "deep"),
    "date": ("a: 1\nb: 2024-13-45\n", 2, "type"),
    "bool": ("a: !!bool x\n", 1, "type"),
    "time": ("a: !!timestamp x\n", 1, "type"),
    "number": ("a: 0x" + "f" * 5000, 1, "63 bits"),
    "mapping": ("a: !!map x\n", 1, "not YAML"),
    "program": ("a: 1\nb: !!python/object/apply:os.system [x]\n", 2, "not YAML"),
    "escape": ('a: "\\e[2J"\n', 1, "control"),
    "raw escape": ("a: 1\nb: \x1b\n", 2, "control"),
    "half": ('a: "\\ud800"\n', 1, "control"),
    "long": ("a: " + "x" * 300_000, None, "is the most"),
}


def check_refused(parse: Callable[[str, str], Any], case: str) -> None:
    text, line, words = WRONG_YAML[case]
    with pytest.raises(InputError, match=words) as caught:
        parse(text, "r.yaml")
    assert line is None or str(caught.value).startswith(f"r.yaml, line {line}: ")


@pytest.mark.parametrize("case", WRONG_YAML)
def test_strict_yaml(case: str) -> None:
    check_refused(strict_yaml.parse, case)


def test_yaml_check_rejects_a_loader_that_is_only_safe() -> None:
    for case in ("laughs", "twice", "escape", "number"):
        with pytest.raises(pytest.fail.Exception):
            check_refused(lambda text, source: yaml.safe_load(text), case)


def test_plain_yaml_is_read() -> None:
    text = "a: 1\nb: {c: [1.5, 'x']}\n'd e': 2024-01-31\nf: |\n  two\n  lines\ng: \"\\xe9\\n\"\n"
    assert strict_yaml.parse(text, "r") == yaml.safe_load(text)


@pytest.mark.parametrize("value", ["[a", "&a [*a]"])
def test_options_of_a_curvature_are_strict_too(value: str) -> None:
    from expunge.influence.directions import curvature_of

    with pytest.raises(InputError, match="curvature block, line 1: not YAML"):
        curvature_of("block", {"coordinates": value})
