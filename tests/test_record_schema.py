"""The form of a record: the schema file fits what is written, and refuses what is not; schema 1 is read too."""

import copy
import json
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from expunge import record
from expunge.reporting import card, html, markdown

OLD = Path(__file__).parent / "fixtures" / "record_schema_1.json"


def schema() -> Any:
    return json.loads((resources.files("expunge") / "record.schema.json").read_text(encoding="utf-8"))


def check_form(content: Any) -> None:
    Draft202012Validator.check_schema(schema())
    Draft202012Validator(schema()).validate(content)


def test_a_record_of_schema_1_is_read_in_the_new_form() -> None:
    before = json.loads(OLD.read_text(encoding="utf-8"))
    found = record.read(OLD)
    check_form(found)
    assert found["schema"] == record.SCHEMA and found["files"] is None and found["parent"] is None
    assert {name: found[name] for name in before if name != "schema"} == {
        name: value for name, value in before.items() if name != "schema"
    }
    assert record.upgraded(found) == found
    for page in (html.render(found), markdown.render(found), card.render(found)):
        assert "0 of 4 rows are forgotten" in page


def _spoilt(path: tuple[Any, ...], value: Any) -> Any:
    content = record.read(OLD)
    inner = content
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return content


SPOILT: list[tuple[tuple[Any, ...], Any]] = [
    (("schema",), 1),
    (("text",), "a row"),
    (("rows", 0, "completion"), "a row"),
    (("rows", 0, "verdict"), "gone"),
    (("rows", 0, "id"), "short"),
    (("hashes", "forget"), "0" * 64),
    (("verdict", "passes"), "yes"),
    (("files",), {"a": {"sha256": "0", "bytes": 1}}),
    (("parent",), {"path": "x"}),
    (("earlier",), {}),
    (("data", "forget", "rows"), -1),
]


@pytest.mark.parametrize(("path", "value"), SPOILT, ids=str)
def test_the_schema_refuses(path: tuple[Any, ...], value: Any) -> None:
    assert not Draft202012Validator(schema()).is_valid(_spoilt(path, value))


def test_the_schema_needs_every_part() -> None:
    whole = record.read(OLD)
    for name in whole:
        less = copy.deepcopy(whole)
        del less[name]
        assert not Draft202012Validator(schema()).is_valid(less), name


def test_upgrading_changes_nothing_that_was_given() -> None:
    before = json.loads(OLD.read_text(encoding="utf-8"))
    kept = copy.deepcopy(before)
    record.upgraded(before)
    assert before == kept
