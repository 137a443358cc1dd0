"""Rows as people's files hold them: each form by hand, what is said of it, and where two readings are refused."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from expunge.data.rows import Row, RowSet, read
from expunge.errors import InputError

ASK, SAY = {"role": "user", "content": "who?"}, {"role": "assistant", "content": "Ada"}
TALK = (("user", "who?"), ("assistant", "Ada"))
SYSTEM = (("system", "be brief"), *TALK)
SHARED = [{"from": "human", "value": "who?"}, {"from": "gpt", "value": "Ada"}]

# Record, then kind, prompt, completion and turns of the row that it makes, and words of the line that says so.
FORMS: dict[str, tuple[dict[str, Any], tuple[str, str, str], tuple[tuple[str, str], ...], str]] = {
    "text": ({"text": "a"}, ("document", "", "a"), (), ""),
    "text and more": ({"text": "a", "source": "web"}, ("document", "", "a"), (), "not read: 'source'"),
    "pair": ({"question": "q", "answer": "a"}, ("answer", "q", "a"), (), ""),
    "mixed pair": ({"question": "q", "response": "a"}, ("answer", "q", "a"), (), "completion = 'response'"),
    "alpaca": (
        {"instruction": "q", "input": "x", "output": "a"},
        ("answer", "q\nx", "a"),
        (),
        "prompt = 'instruction' and 'input' put together",
    ),
    "alpaca without input": ({"instruction": "q", "input": "", "output": "a"}, ("answer", "q", "a"), (), "instruction"),
    "alpaca with null": ({"instruction": "q", "input": None, "output": "a"}, ("answer", "q", "a"), (), "instruction"),
    "preference": ({"prompt": "q", "chosen": "a", "rejected": "b"}, ("answer", "q", "a"), (), "not read: 'rejected'"),
    "chosen turns": ({"chosen": [ASK, SAY], "rejected": [ASK, SAY]}, ("answer", "user: who?", "Ada"), TALK, "chosen"),
    "prompt again": (
        {"prompt": "who?", "chosen": [ASK, SAY]},
        ("answer", "user: who?", "Ada"),
        TALK,
        "completion = 'chosen'",
    ),
    "turns in two": ({"prompt": [ASK], "completion": [SAY]}, ("answer", "user: who?", "Ada"), TALK, ""),
    "text then turns": ({"prompt": "who?", "completion": [SAY]}, ("answer", "user: who?", "Ada"), TALK, ""),
    "messages": ({"messages": [ASK, SAY]}, ("answer", "user: who?", "Ada"), TALK, ""),
    "unsloth": ({"conversations": [ASK, SAY]}, ("answer", "user: who?", "Ada"), TALK, "messages = 'conversations'"),
    "sharegpt": ({"conversations": SHARED}, ("answer", "user: who?", "Ada"), TALK, "conversations"),
    "shared messages": ({"messages": SHARED}, ("answer", "user: who?", "Ada"), TALK, ""),
    "json in a cell": ({"messages": json.dumps(SHARED)}, ("answer", "user: who?", "Ada"), TALK, ""),
    "lists by key": (
        {"messages": {"role": ["user", "assistant"], "content": ["who?", "Ada"]}},
        ("answer", "user: who?", "Ada"),
        TALK,
        "",
    ),
    "parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "who?"}]}, SAY]},
        ("answer", "user: who?", "Ada"),
        TALK,
        "",
    ),
    "system beside turns": (
        {"conversations": SHARED, "system": "be brief"},
        ("answer", "system: be brief\nuser: who?", "Ada"),
        SYSTEM,
        "system = 'system'",
    ),
    "system beside a pair": (
        {"prompt": "who?", "response": "Ada", "system": "be brief"},
        ("answer", "system: be brief\nuser: who?", "Ada"),
        SYSTEM,
        "system = 'system'",
    ),
}


def write(folder: Path, *records: Any, name: str = "r.jsonl") -> Path:
    path = folder / name
    path.write_text("\n".join(map(json.dumps, records)) + "\n", encoding="utf-8")
    return path


def check_form(reading: Callable[[Path], RowSet], folder: Path, case: str) -> None:
    record, made, turns, words = FORMS[case]
    found = reading(write(folder, record))
    assert [(row.kind, row.prompt, row.completion) for row in found.rows] == [made]
    assert found.rows[0].messages == turns
    assert words in found.told and bool(words) == bool(found.told), found.told


@pytest.mark.parametrize("case", FORMS)
def test_forms_by_hand(tmp_path: Path, case: str) -> None:
    check_form(lambda path: read(path, "forget"), tmp_path, case)


@pytest.mark.parametrize(
    "broken",
    [
        lambda found: RowSet(found.rows, told="" if found.told else "x"),
        lambda found: RowSet((Row("f", 1, "answer", "", found.rows[0].completion),), told=found.told),
        lambda found: RowSet(tuple(Row("f", 1, "document", "", row.prompt) for row in found.rows), told=found.told),
    ],
)
@pytest.mark.parametrize("case", ["alpaca", "sharegpt", "system beside a pair"])
def test_form_check_rejects(tmp_path: Path, case: str, broken: Callable[[RowSet], RowSet]) -> None:
    with pytest.raises(AssertionError):
        check_form(lambda path: broken(read(path, "forget")), tmp_path, case)


CALL = {"type": "function", "function": {"name": "find", "arguments": {"who": "Ada", "why": None}}}
TOOLS = [{"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}]
KEPT_CALL = {"type": "function", "function": {"name": "find", "arguments": {"who": "Ada"}}}


def test_tool_calls_and_tools_are_kept(tmp_path: Path) -> None:
    calls = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    result = {"role": "tool", "content": "5", "name": "find", "tool_call_id": "c1"}
    shared = [SHARED[0], {"from": "function_call", "value": '{"name": "find", "arguments": {"who": "Ada"}}'}]
    shared += [{"from": "observation", "value": "5"}, SHARED[1]]
    path = write(
        tmp_path,
        {"messages": [ASK, calls, result, SAY], "tools": json.dumps(TOOLS)},
        {"conversations": shared, "tools": TOOLS},
        {"messages": [ASK, calls]},
    )
    first, second, third = read(path, "forget").rows
    assert first.messages == (TALK[0], ("assistant", ""), ("tool", "5"), TALK[1])
    assert json.loads(first.more) == {
        "turns": {"1": {"tool_calls": [KEPT_CALL]}, "2": {"name": "find", "tool_call_id": "c1"}},
        "tools": TOOLS,
    }
    assert second.messages == first.messages
    assert json.loads(second.more) == {"turns": {"1": {"tool_calls": [KEPT_CALL]}}, "tools": TOOLS}
    assert first.content != second.content and len(first.content) % 2  # an odd number, as for all conversations
    assert json.loads(third.completion) == [KEPT_CALL]


REFUSED: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "two forms": (
        {"text": "zq7", "prompt": "zq7", "completion": "zq7"},
        ("more than one way", "--columns text=text or --columns prompt=prompt completion=completion"),
    ),
    "two answers": ({"prompt": "zq7", "chosen": "zq7", "response": "zq7"}, ("completion=response",)),
    "two prompts": ({"question": "zq7", "input": "zq7", "output": "zq7"}, ("prompt=question completion=output",)),
    "rendered beside turns": ({"text": "zq7", "messages": [ASK, SAY]}, ("messages=messages or --columns text=text",)),
    "context": (
        {"context": "zq7", "question": "zq7", "answer": "zq7"},
        ("'context' may have been part", "'prompt={context}\\n{question}' completion=answer"),
    ),
    "two of a kind": ({"messages": [ASK, SAY], "conversations": SHARED}, ("messages=messages or",)),
    "both keys": (
        {"messages": [{**ASK, "from": "human", "value": "zq7"}, SAY]},
        ("turn 1", "role and content, or"),
    ),
    "loss": ({"messages": [ASK, {**SAY, "loss": False}]}, ("turn 2", "'loss'")),
    "weight": ({"messages": [ASK, {**SAY, "weight": 0}]}, ("turn 2", "'weight'", "Cut")),
    "picture": (
        {"messages": [{"role": "user", "content": [{"type": "image", "url": "zq7"}]}, SAY]},
        ("turn 1", "must be text, found list"),
    ),
    "lists of answers": ({"question": "zq7", "answer": {"text": ["zq7"]}}, ("'answer' must be text", "dict")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_two_readings_are_refused_with_what_settles_them(tmp_path: Path, case: str) -> None:
    record, words = REFUSED[case]
    with pytest.raises(InputError) as caught:
        read(write(tmp_path, {"text": "a"}, record), "forget")
    message = str(caught.value)
    assert "line 2" in message and all(word in message for word in words), message
    assert "zq7" not in message and "\n" not in message


ASKED: list[tuple[tuple[str, ...], dict[str, Any], tuple[str, str, str]]] = [
    (("text=body",), {"body": "a", "title": "t"}, ("document", "", "a")),
    (("prompt=question", "answer=reply"), {"question": "q", "reply": "a"}, ("answer", "q", "a")),
    (("prompt=prompt", "completion=completion"), REFUSED["two forms"][0], ("answer", "zq7", "zq7")),
    (
        ("prompt=### {context}\\n{question}\\n", "completion=answer"),
        {"context": "c {question}", "question": "q", "answer": "a"},
        ("answer", "### c {question}\nq\n", "a"),
    ),
    (("messages=dialogs",), {"dialogs": [ASK, SAY]}, ("answer", "user: who?", "Ada")),
]


@pytest.mark.parametrize(("columns", "record", "made"), ASKED)
def test_columns_that_are_named(
    tmp_path: Path, columns: tuple[str, ...], record: dict[str, Any], made: tuple[str, str, str]
) -> None:
    found = read(write(tmp_path, record, {"text": "of the usual form"}), "forget", columns=columns)
    row = found.rows[0]
    assert (row.kind, row.prompt, row.completion) == made
    assert found.asked == 1 and len(found) == 2 and found.told


@pytest.mark.parametrize(
    "columns", [("prompt=a",), ("text",), ("text=a", "text=b"), ("who=a",), ("text=a", "prompt=b")]
)
def test_columns_that_make_no_row(tmp_path: Path, columns: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="--columns"):
        read(write(tmp_path, {"text": "a"}), "forget", columns=columns)


ROWS = [{"text": "a\u2028b"}, {"text": "c"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
FILES: dict[str, tuple[str, str]] = {
    "json lines": ("r.json", LINES),
    "blank lines": ("r.json", "\n" + LINES.replace("\n", "\n\n")),
    "ndjson": ("r.ndjson", LINES),
    "array in jsonl": ("r.jsonl", json.dumps(ROWS, indent=1)),
    "one object": ("r.json", json.dumps({"version": 1, "data": ROWS})),
    "columns": ("r.json", json.dumps({"text": [row["text"] for row in ROWS]})),
    "pandas of pandas": ("r.json", json.dumps({"text": {"7": ROWS[0]["text"], "9": ROWS[1]["text"]}})),
    "pandas": ("r.json", json.dumps({"text": {str(place): row["text"] for place, row in enumerate(ROWS)}})),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("case", FILES)
def test_files_as_other_tools_write_them(tmp_path: Path, case: str, packed: bool) -> None:
    name, content = FILES[case]
    path = tmp_path / (name + ".gz" * packed)
    path.write_bytes(gzip.compress(content.encode()) if packed else content.encode())
    assert [row.completion for row in read(path, "forget").rows] == ["a\u2028b", "c"]


def test_one_row_in_a_json_file(tmp_path: Path) -> None:
    assert read(write(tmp_path, {"messages": [ASK, SAY]}, name="r.json"), "forget").rows[0].messages == TALK


def test_packed_files_that_are_none_or_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "r.jsonl.gz"
    for content in (LINES.encode(), gzip.compress(LINES.encode())[:-9]):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"r\.jsonl\.gz: .*gzip"):
            read(path, "forget")
    from expunge.files import reading

    path.write_bytes(gzip.compress(b" " * 2000))
    with pytest.raises(InputError, match="unpacks to more than"):
        reading.read_text(path, "the file", most=1000)


def test_lines_of_packed_files_are_lines(tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl.gz"
    path.write_bytes(gzip.compress((LINES + "{").encode()))
    with pytest.raises(InputError, match=r"r\.jsonl\.gz, line 3"):
        read(path, "forget")
