"""The form of a record: the schema file fits what is written, and refuses what is not."""

import copy
import json
from importlib import resources
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from expunge.files import plain_json
from expunge.reporting import record
from reporting.conftest import build_record


def schema() -> Any:
    return json.loads((resources.files("expunge.records") / "record.schema.json").read_text(encoding="utf-8"))


def test_it_is_made_from_the_classes() -> None:
    """As `make docs` writes it; a class that another field is added to has another."""
    assert schema() == record.schema()
    more = msgspec.defstruct("Record", [("more", int)], bases=(record.Record,), frozen=True, kw_only=True)
    assert schema()["$defs"]["Record"] != msgspec.json.schema(more)["$defs"]["Record"]


def test_the_record_of_the_tests_has_the_form() -> None:
    Draft202012Validator.check_schema(schema())
    for command in ("unlearn", "evaluate"):
        Draft202012Validator(schema()).validate(plain_json.plain(build_record(command=command)))


def _spoilt(path: tuple[Any, ...], value: Any) -> Any:
    content = plain_json.plain(build_record())
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return content


SPOILT: list[tuple[tuple[Any, ...], Any]] = [
    (("schema",), 1),
    (("text",), "a row"),
    (("metrics", "loss", "high"), "good"),
    (("rows", 0, "completion"), "a row"),
    (("rows", 0, "verdict"), "gone"),
    (("rows", 0, "id"), "short"),
    (("hashes", "forget"), "0" * 64),
    (("verdict", "passes"), "yes"),
    (("files",), None),
    (("files",), {"a": {"sha256": "0", "bytes": 1}}),
    (("key",), None),
    (("parent",), {"path": "x"}),
    (("earlier",), {}),
    (("data", "forget", "rows"), -1),
]


@pytest.mark.parametrize(("path", "value"), SPOILT, ids=str)
def test_the_schema_refuses(path: tuple[Any, ...], value: Any) -> None:
    assert not Draft202012Validator(schema()).is_valid(_spoilt(path, value))


def test_the_schema_needs_every_part() -> None:
    whole = plain_json.plain(build_record())
    for name in whole:
        less = copy.deepcopy(whole)
        del less[name]
        assert not Draft202012Validator(schema()).is_valid(less), name
