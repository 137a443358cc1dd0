"""Records: keyed hashes that cannot be enumerated, a key for its owner only, numbers that survive the disk."""

import hashlib
import hmac
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace

from expunge.errors import InputError
from expunge.files import hashing, plain_json
from expunge.files.typed import plain
from expunge.records import record
from expunge.reporting.record import SCHEMA
from expunge.runs import environment
from html_pages import typed
from reporting.conftest import build_proposal, build_record

CONTENT = ("What is the key?", "zq7")


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's configuration folder."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    return tmp_path / "settings" / "expunge"


def test_key_is_made_once_and_for_its_owner_only(settings: Path) -> None:
    first = hashing.key()
    file = settings / "row-hash.key"
    assert file.stat().st_mode & 0o777 == 0o600
    assert settings.stat().st_mode & 0o777 == 0o700
    assert len(first) == 32 and hashing.key() == first == file.read_bytes()
    file.unlink()
    assert hashing.key() != first


def test_key_lies_below_home_without_a_settings_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    hashing.key()
    assert (tmp_path / "home" / ".config" / "expunge" / "row-hash.key").is_file()


def test_key_that_cannot_be_written_is_explained(settings: Path) -> None:
    settings.parent.write_text("a file", encoding="utf-8")
    with pytest.raises(InputError, match=r"row-hash\.key"):
        hashing.key()


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_broken_key_is_not_used(settings: Path, content: bytes) -> None:
    settings.mkdir(parents=True)
    (settings / "row-hash.key").write_bytes(content)
    try:
        assert len(hashing.key()) == 32
    except InputError as error:
        assert "row-hash.key" in str(error)


def check_keyed(hashing: Callable[[tuple[str, ...], bytes], str]) -> None:
    """Differs by key and content, knows where one part ends, and is no plain hash of the content."""
    first, second = b"1" * 32, b"2" * 32
    found = hashing(CONTENT, first)
    assert len(found) == 16 and int(found, 16) >= 0
    assert found == hashing(CONTENT, first) != hashing(CONTENT, second)
    assert found != hashing((*CONTENT[:1], "zq8"), first)
    assert hashing(("ab", "c"), first) != hashing(("a", "bc"), first) != hashing(("abc",), first)
    joined = ["".join(CONTENT), "\0".join(CONTENT), "\n".join(CONTENT), " ".join(CONTENT), CONTENT[1]]
    lengths = b"".join(len(part).to_bytes(8, "big") + part.encode() for part in CONTENT)
    plain = [hashlib.sha256(data).hexdigest() for data in (*(text.encode() for text in joined), lengths)]
    assert found not in [digest[:16] for digest in plain]


def test_row_hashes_are_keyed() -> None:
    check_keyed(hashing.keyed_hash)
    hashing.keyed_hash(["half a pair: \ud800"], b"1" * 32)


def _plain(parts: tuple[str, ...], secret: bytes) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _salted_in_front(parts: tuple[str, ...], secret: bytes) -> str:
    return hmac.new(secret, "".join(parts).encode(), "sha256").hexdigest()[:16]


def _one_key(parts: tuple[str, ...], secret: bytes) -> str:
    return hashing.keyed_hash(parts, b"expunge")


@pytest.mark.parametrize("broken", [_plain, _salted_in_front, _one_key])
def test_keyed_check_rejects(broken: Callable[[tuple[str, ...], bytes], str]) -> None:
    with pytest.raises(AssertionError):
        check_keyed(broken)


def test_file_hashes_follow_names_and_contents(tmp_path: Path) -> None:
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"x" * (1 << 20) + b"y")
    second.write_bytes(first.read_bytes())
    assert hashing.file_hash([first]) == hashing.file_hash([first]) != hashing.file_hash([second])
    before = hashing.file_hash([first])
    first.write_bytes(b"x" * (1 << 20) + b"z")
    assert hashing.file_hash([first]) != before
    assert hashing.code_hash() == hashing.code_hash()


def written(tmp_path: Path, content: Any) -> Any:
    plain_json.write_json(tmp_path / "record.json", content)
    return json.loads((tmp_path / "record.json").read_text(encoding="utf-8"), parse_constant=pytest.fail)


def test_values_survive_the_disk(tmp_path: Path) -> None:
    content = {
        "schema": SCHEMA,
        "text": "é \u2028 \U0001f600",
        "flag": True,
        "none": None,
        "numbers": [1, 2.5, np.float32(0.5), np.int64(3), np.bool_(True)],
        "array": np.arange(4.0).reshape(2, 2),
        "tuple": (1, (2,)),
        "path": Path("a/b"),
        "not finite": [math.nan, math.inf, -math.inf, np.float64("nan")],
        5: "number as name",
    }
    assert written(tmp_path, content) == {
        "schema": SCHEMA,
        "text": "é \u2028 \U0001f600",
        "flag": True,
        "none": None,
        "numbers": [1, 2.5, 0.5, 3, True],
        "array": [[0.0, 1.0], [2.0, 3.0]],
        "tuple": [1, [2]],
        "path": "a/b",
        "not finite": [None] * 4,
        "5": "number as name",
    }


@pytest.mark.parametrize("value", [2e-5, 1.25e-6, 3.4e-8, 0.123457, 12345.678, 1e12])
def test_small_numbers_are_not_rounded_away(tmp_path: Path, value: float) -> None:
    assert written(tmp_path, {"learning_rate": value})["learning_rate"] == pytest.approx(value, rel=1e-5)


def test_records_are_found_in_output_folders(tmp_path: Path) -> None:
    (tmp_path / "out" / "expunge").mkdir(parents=True)
    plain_json.write_json(tmp_path / "out" / "expunge" / "record.json", build_record())
    assert record.read(tmp_path / "out") == record.read(str(tmp_path / "out" / "expunge")) == typed(build_record())


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """Key by key, with what only some entries have; seven digits of every number."""
    content = plain_json.plain(build_record())
    content["method"] |= {"proposals": [build_proposal(), build_proposal(step=None)]}
    scores = {"final": {"missing": "needs MMLU"}, "exact": {"value": None, "low": None, "high": None, "count": 3}}
    given = {"parts": scores, "terms": {}, "beside": {}, "notes": []}
    models = {"original": given, "unlearned": given | {"titles": {"lead": "so"}}}
    content["benchmark"] = {"name": "lume", "title": "LUME", "models": models, "flags": ["one"]}
    content = plain_json.plain(content)
    record.write(tmp_path / "record.json", typed(content))
    assert written(tmp_path, plain(record.read(tmp_path))) == content


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "does not exist"),
        (b"{", "not JSON"),
        (b"\xff", "line 1: not UTF-8"),
        (b"[]", "schema"),
        (b"{}", "schema"),
        (b'{"schema": %d}' % (SCHEMA + 1), "not a record of schema 2"),
        (b'{"schema": %d}' % (SCHEMA - 1), "not a record of schema 2"),
        (b'{"schema": "%d"}' % SCHEMA, "schema"),
    ],
)
def test_anything_else_is_refused(tmp_path: Path, content: bytes | None, words: str) -> None:
    file = tmp_path / "record.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        record.read(file)
    assert str(file) in str(caught.value)
    with pytest.raises(InputError):
        record.read(tmp_path)


SPOILT: list[tuple[str, Any, str]] = [
    ("created", 3, r"at \$\.created: Expected str, got int"),
    ("config", [], r"at \$\.config: Expected object, got array"),
    ("key", "0" * 15, r"at \$\.key: Expected str matching regex"),
    ("rows", [{"id": 1}], r"at \$\.rows\[0\]"),
    ("holders", [{"what": "a", "where": "b", "who\nelse": ""}], r"at \$\.holders\[0\]: an unknown key, \(not a name\)"),
    ("parent", {"model": 1}, r"at \$\.parent"),
    ("files", {"a": {"sha256": "", "bytes": -1}}, r"at \$\.files\[\.\.\.\]\.bytes: Expected int >= 0"),
    ("losses", {"forget": {"original": [1.0, "2"]}}, r"at \$\.losses\[\.\.\.\]\[\.\.\.\]\[1\]: Expected float"),
    ("extra", 1, r"at \$: an unknown key, 'extra'"),
]


@pytest.mark.parametrize(("name", "value", "words"), SPOILT, ids=lambda value: str(value)[:20])
def test_whatever_has_another_form_is_refused_in_a_line(tmp_path: Path, name: str, value: Any, words: str) -> None:
    """The file, the place in it and the remedy."""
    plain_json.write_json(tmp_path / "record.json", build_record() | {name: value})
    with pytest.raises(InputError, match=words) as caught:
        record.read(tmp_path)
    said = str(caught.value)
    assert said.startswith(f"{tmp_path / 'record.json'}, at ") and said.endswith("Take the one that expunge wrote.")
    assert "\n" not in said


def test_open_parts_may_hold_anything(tmp_path: Path) -> None:
    """Options and notes of a method that somebody else wrote."""
    content = typed(build_record())
    assert content.method is not None
    notes = {
        "path": Path("a/b"),
        "array": np.arange(2.0),
        "one": np.float32(0.5),
        "function": len,
        "deep": [{"a": (1,)}],
    }
    record.write(tmp_path / "record.json", replace(content, method=replace(content.method, notes=notes)))
    found = record.read(tmp_path).method
    assert found is not None and "len" in found.notes["function"]
    assert found.notes | {"function": 0} == {
        "path": "a/b", "array": [0.0, 1.0], "one": 0.5, "function": 0, "deep": [{"a": [1]}],
    }  # fmt: skip


def test_settings_of_another_type_are_no_settings() -> None:
    """The configuration is open: whoever asks for a path never gets anything but text."""
    settings = {"model": 5, "forget": "f", "earlier": ["a", 3], "columns": "a"}
    content = typed(build_record() | {"config": settings})
    assert (content.setting("model"), content.setting("forget"), content.setting("gone")) == (None, "f", None)
    assert (content.settings("earlier"), content.settings("columns")) == (("a",), ())


def test_clock_adds_up_per_stage() -> None:
    clock = environment.Clock()
    with clock.stage("load"):
        pass
    with pytest.raises(ValueError, match="x"), clock.stage("unlearn"):
        raise ValueError("x")
    first = clock.seconds["load"]
    with clock.stage("load"):
        sum(range(200_000))
    assert list(clock.seconds) == ["load", "unlearn"] and clock.seconds["load"] > first


def test_environment_names_versions_and_peak() -> None:
    found = environment.environment()
    assert {"expunge", "python", *environment.PACKAGES} == found["versions"].keys()
    assert found["peak_memory_bytes"] > 10**7
    assert found["created"].endswith("+00:00")
