"""Rows: every accepted form, and for each kind of wrong input a message with file and line and without row text."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from expunge.data.rows import Row, RowSet, check_disjoint, read, without
from expunge.errors import InputError
from expunge.scoring.words import words

SECRET = "zq7 secret"
GOOD = '{"text": "zq7 secret %d"}\n'


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def complaint(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path, "forget")
    return str(caught.value)


def check_complaint(message: str, path: Path, line: int | None, words: tuple[str, ...]) -> None:
    """File, line and the expected words are named; nothing of the row is."""
    assert str(path) in message
    assert line is None or f"line {line}:" in message
    assert all(word in message for word in words), message
    assert "zq7" not in message and "secret" not in message


def _talk(*turns: str) -> str:
    """A row of JSONL from turns written as "role text"."""
    split = [turn.partition(" ") for turn in turns]
    return json.dumps({"messages": [{"role": role, "content": text} for role, _, text in split]})


WRONG = {
    "jsonl broken": ("r.jsonl", "".join(GOOD % n for n in range(6)) + '{"text": "zq7 secret\n', 7, ("not JSON",)),
    "jsonl blank before": ("r.jsonl", "\n\n" + GOOD % 1 + "zq7 secret", 4, ("not JSON",)),
    "jsonl deep": ("r.jsonl", GOOD % 1 + "[" * 200_000, 2, ("not JSON",)),
    "jsonl huge number": ("r.jsonl", GOOD % 1 + '{"text": ' + "1" * 5000 + "}", 2, ()),
    "json huge number": ("r.json", '[{"text": ' + "1" * 5000 + "}]", None, ()),
    "json broken": ("r.json", '[{"text": "zq7 secret"},\n\n{"text": zq7 secret}]', 3, ("not JSON",)),
    "json text": ("r.json", '"zq7 secret"', None, ("array", "str")),
    "json deep": ("r.json", "[" * 200_000, None, ("nested",)),
    "not an object": ("r.jsonl", GOOD % 1 + '["zq7 secret"]', 2, ("list",)),
    "unknown column": ("r.jsonl", GOOD % 1 + '{"sentence": "zq7 secret"}', 2, ("'sentence'", "prompt + completion")),
    "two shapes": ("r.jsonl", '{"text": "zq7 secret", "prompt": "a", "completion": "b"}', 1, ("more than one way",)),
    "no column": ("r.jsonl", "{}", 1, ("none", "question + answer")),
    "empty text": ("r.jsonl", GOOD % 1 + '{"text": " \\n"}', 2, ("'text'", "empty")),
    "empty completion": ("r.jsonl", '{"prompt": "zq7 secret", "completion": ""}', 1, ("'completion'", "empty")),
    "number": ("r.jsonl", GOOD % 1 + '{"prompt": "zq7 secret", "completion": 5}', 2, ("'completion'", "text", "int")),
    "null": ("r.jsonl", '{"question": null, "answer": "zq7 secret"}', 1, ("'question'", "null", "Fill it in")),
    "array element": ("r.json", '[{"text": "zq7 secret"}, {"text": 5}]', 2, ("int",)),
    "encoding": ("r.jsonl", (GOOD % 1 + GOOD % 2).encode() + b'{"text": "zq7 secret \xff"}', 3, ("UTF-8",)),
    "utf-16": ("r.jsonl", (GOOD % 1).encode("utf-16"), 1, ("UTF-8",)),
    "surrogate": ("r.jsonl", '{"text": "zq7 secret \\ud800"}', 1, ("surrogate",)),
    "csv unknown header": ("r.csv", "sentence\nzq7 secret\n", 2, ("'sentence'",)),
    "csv few cells": ("r.csv", "prompt,completion\na,b\nzq7 secret\n", 3, ("fewer cells",)),
    "csv many cells by semicolons": ("r.csv", "prompt;completion\nzq7 secret;b;c\n", 2, ("hold semicolons in quotes",)),
    "csv many cells": ("r.csv", "text\nzq7 secret,b\n", 2, ("more cells",)),
    "csv quotes": ("r.csv", 'text\n"zq7 secret" b\n', 2, ("not CSV",)),
    "csv empty cell": ("r.csv", "prompt,completion\nzq7 secret,\n", 2, ("'completion'", "empty")),
    "csv without header": ("r.csv", "zq7 secret,b\nc,d\n", 2, ("Known: text",)),
    "empty jsonl": ("r.jsonl", "", None, ("no rows",)),
    "blank jsonl": ("r.jsonl", " \n\n", None, ("no rows",)),
    "empty json": ("r.json", "", None, ("no rows",)),
    "empty array": ("r.json", "[]", None, ("no rows",)),
    "empty csv": ("r.csv", "", None, ("no rows",)),
    "header only": ("r.csv", "text\n", None, ("no rows",)),
    "alternate no text": ("r.jsonl", '{"text": "zq7 secret", "alternate": 5}', 1, ("'alternate'", "int")),
    "paraphrase no text": (
        "r.jsonl",
        '{"prompt": "a", "completion": "zq7", "paraphrase": 5}',
        1,
        ("'paraphrase'", "int"),
    ),
    "alternate of none": ("r.jsonl", '{"text": "a", "alternate": ["zq7 secret", " "]}', 1, ("'alternate'", "empty")),
    "no list": ("r.jsonl", '{"messages": "zq7 secret"}', 1, ("'messages'", "list of turns", "str")),
    "no turns": ("r.jsonl", '{"messages": []}', 1, ("end with a turn of the assistant",)),
    "user last": ("r.jsonl", _talk("user zq7", "assistant zq7", "user zq7"), 1, ("end with a turn of the assistant",)),
    "no user": ("r.jsonl", _talk("assistant zq7"), 1, ("no turn of the user", "text row")),
    "late system": ("r.jsonl", _talk("user zq7", "system zq7", "assistant zq7"), 1, ("system turn must be the first",)),
    "role": ("r.jsonl", _talk("user zq7", "zq7 zq7", "assistant zq7"), 1, ("turn 2", "unknown role")),
    "empty turn": ("r.jsonl", _talk("user zq7", "assistant"), 1, ("turn 2", "empty")),
    "other keys": ("r.jsonl", '{"messages": [{"author": "zq7", "value": "b"}]}', 1, ("turn 1", "'author'", "role")),
    "parts": ("r.jsonl", '{"messages": [{"role": "user", "content": [{"text": "zq7"}]}]}', 1, ("must be text", "list")),
    "extension": ("r.txt", GOOD % 1, None, (".jsonl", ".json", ".csv")),
}


@pytest.mark.parametrize("case", WRONG, ids=str)
def test_wrong_input_is_named_and_redacted(tmp_path: Path, case: str) -> None:
    name, content, line, words = WRONG[case]
    path = write(tmp_path, name, content)
    check_complaint(complaint(path), path, line, words)


def test_complaint_check_rejects_leaks_and_missing_lines() -> None:
    path = Path("r.jsonl")
    check_complaint("r.jsonl, line 7: not JSON", path, 7, ())
    for broken in ("line 7: not JSON", "r.jsonl: not JSON", "r.jsonl, line 71: x", f"r.jsonl, line 7: {SECRET}"):
        with pytest.raises(AssertionError):
            check_complaint(broken, path, 7, ())


def test_missing_file_and_folder(tmp_path: Path) -> None:
    check_complaint(complaint(tmp_path / "no.jsonl"), tmp_path / "no.jsonl", None, ("forget", "does not exist"))
    (tmp_path / "folder.jsonl").mkdir()
    check_complaint(complaint(tmp_path / "folder.jsonl"), tmp_path / "folder.jsonl", None, ("cannot be read",))


def test_half_surrogates_in_metadata_do_not_reach_the_record(tmp_path: Path) -> None:
    path = write(tmp_path, "r.jsonl", '{"text": "a", "task": "\\ud800"}')
    try:
        tasks = [row.task for row in read(path, "forget").rows]
    except InputError:
        return
    for task in tasks:
        task.encode("utf-8")


@pytest.mark.parametrize("columns", [("prompt", "completion"), ("input", "output"), ("question", "answer")])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".JSONL"])
def test_answers_in_every_form(tmp_path: Path, columns: tuple[str, str], suffix: str) -> None:
    records = [{columns[0]: "Who?", columns[1]: 'Ada, the "first"\nof all'}, {columns[0]: "", columns[1]: "é"}]
    content = {
        ".jsonl": "\n".join(json.dumps(record) for record in records),
        ".json": json.dumps(records),
        ".csv": f'{columns[1]},{columns[0]}\n"Ada, the ""first""\nof all",Who?\né,\n',
    }[suffix.lower()]
    found = read(write(tmp_path, "r" + suffix, content), "forget").rows
    assert [(row.kind, row.prompt, row.completion) for row in found] == [
        ("answer", "Who?", 'Ada, the "first"\nof all'),
        ("answer", "", "é"),
    ]


@pytest.mark.parametrize("mark", [";", "\t"])
def test_spreadsheets_of_other_countries(tmp_path: Path, mark: str) -> None:
    content = f'prompt{mark}completion\nWho, and "where"?{mark}"Ada{mark} 3,5"\n'
    (row,) = read(write(tmp_path, "r.csv", content), "forget").rows
    assert (row.prompt, row.completion) == ('Who, and "where"?', f"Ada{mark} 3,5")
    (row,) = read(write(tmp_path, "s.csv", f'text,id\n"a{mark}b",3\n'), "forget").rows
    assert row.completion == f"a{mark}b"


def test_documents_metadata_and_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "r.jsonl", '\n{"text": "a", "id": 3, "task": "one"}\n\n{"id": 4, "text": "b", "task": null}')
    found = read(path, "forget").rows
    assert found == (Row(str(path), 2, "document", "", "a", "one"), Row(str(path), 4, "document", "", "b", ""))
    assert found[0].name == "r.jsonl:2"


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".json"])
def test_byte_order_mark_and_windows_lines(tmp_path: Path, suffix: str) -> None:
    content = {
        ".jsonl": '{"text": "a"}\r\n{"text": "b"}\r\n',
        ".csv": "text\r\na\r\nb\r\n",
        ".json": '[{"text": "a"},\r\n{"text": "b"}]',
    }[suffix]
    path = write(tmp_path, "r" + suffix, b"\xef\xbb\xbf" + content.encode())
    assert [row.completion for row in read(path, "forget").rows] == ["a", "b"]


def test_line_separators_inside_a_text_do_not_end_its_line(tmp_path: Path) -> None:
    text = "a\u2028b\u0085c\x0cd"
    path = write(tmp_path, "r.jsonl", json.dumps({"text": text}, ensure_ascii=False).replace("\\f", "\x0b") + "\n")
    with pytest.raises(InputError, match="line 1"):  # a raw control character is no JSON, but it is still line 1
        read(path, "forget")
    path = write(tmp_path, "r.jsonl", json.dumps({"text": text}, ensure_ascii=False) + "\n" + GOOD % 1)
    assert [(row.line, row.completion) for row in read(path, "forget").rows] == [(1, text), (2, "zq7 secret 1")]


def test_duplicates_are_merged_and_counted(tmp_path: Path) -> None:
    lines = [
        '{"text": "a"}',
        '{"text": " a "}',
        '{"question": "q", "answer": "a"}',
        '{"input": "q ", "output": "a\\n"}',
    ]
    found = read(write(tmp_path, "r.jsonl", "\n".join(lines) + "\n" + lines[0]), "forget")
    # five lines, two distinct rows (each at its first line), so three were merged
    assert [(row.line, row.kind) for row in found.rows] == [(1, "document"), (3, "answer")]
    assert (len(found), found.duplicates) == (2, 3)


def test_alternates_are_texts_lists_or_lines_of_the_same_row(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "alternate": "b"},
        {"text": "a", "alternate": ["c", "b"]},
        {"text": "d", "alternate": ""},
        {"messages": [{"role": "user", "content": "e"}, {"role": "assistant", "content": "f"}], "alternate": ["g"]},
        {"question": "h", "answer": "i", "paraphrase": ["j", "k"]},
    ]
    found = read(write(tmp_path, "r.jsonl", "".join(json.dumps(row) + "\n" for row in rows)), "forget")
    assert [row.alternates for row in found.rows] == [("b", "c"), (), ("g",), ()]
    assert [row.reworded for row in found.rows] == [(), (), (), ("j", "k")]
    assert found.duplicates == 1
    assert found.rows[0].content == ("", "a")  # what makes it the same row


def test_overlap_names_both_places() -> None:
    forget = RowSet((Row("f.jsonl", 3, "answer", "q", "b"), Row("f.jsonl", 4, "answer", SECRET, "a")))
    other = RowSet((Row("k.csv", 9, "answer", f" {SECRET}", "a "), Row("k.csv", 10, "answer", "q", "c")))
    with pytest.raises(InputError) as caught:
        check_disjoint(forget, other, "retain")
    check_complaint(str(caught.value), Path("f.jsonl"), 4, ("k.csv, line 9", "retain", "1 row(s)"))
    check_disjoint(forget, RowSet(other.rows[1:]), "retain")
    assert without(other, forget) == other.rows[1:]


SAME = [("Zoë B", "Zoe\u0308 B"), ("Paris", "PARIS"), ("a  b", "a\nb"), ("ab", "a\u200bb"), ("Straße", "STRASSE")]


def check_identity(identity: Callable[[Row], object]) -> None:
    """Rows that a person takes for one are one, and no others; where they differ at all, both stay to be forgotten."""
    for one, other in SAME:
        assert identity(Row("f", 1, "answer", "q", one)) == identity(Row("f", 1, "answer", " q ", other))
    for one, other in (("a b", "ab"), ("がき", "かき"), ("résumé", "resume"), ("5", "\u0665")):
        assert identity(Row("f", 1, "answer", "q", one)) != identity(Row("f", 1, "answer", "q", other))


def test_rows_in_another_form_are_the_same_row(tmp_path: Path) -> None:
    check_identity(lambda row: row.identity)
    for broken in (lambda row: row.content, lambda row: tuple(map(words, row.content))):
        with pytest.raises(AssertionError):
            check_identity(broken)
    for one, other in SAME:
        forget = RowSet((Row("f", 1, "document", "", one),))
        kept = RowSet((Row("k", 2, "document", "", other), Row("k", 3, "document", "", "else")))
        with pytest.raises(InputError, match="in another case, spacing or Unicode form"):
            check_disjoint(forget, kept, "retain")
        assert without(kept, forget) == kept.rows[1:]
        path = write(tmp_path, "r.jsonl", json.dumps({"text": one}) + "\n" + json.dumps({"text": other}))
        assert len(read(path, "forget")) == 2


def test_digest_depends_on_salt_and_content_only() -> None:
    row = Row("f", 1, "answer", "q", "a")
    assert row.digest("x") == Row("g", 2, "answer", "q ", " a", "task").digest("x")
    assert row.digest("x") != row.digest("y")
    assert row.digest("x") != Row("f", 1, "answer", "qa", "").digest("x")


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_long_documents_are_read(tmp_path: Path, suffix: str) -> None:
    text = "word " * 40_000 + "end"  # the csv module by itself stops at 131,072 characters
    content = {".jsonl": json.dumps({"text": text}), ".csv": f"text\n{text}\n"}[suffix]
    assert read(write(tmp_path, "r" + suffix, content), "forget").rows[0].completion == text


def test_conversations(tmp_path: Path) -> None:
    turns = ("system be kind", "user who?", "assistant Ada", "user  where?", "assistant here")
    shared = {"conversations": [{"from": "human", "value": "who?"}, {"from": "gpt", "value": "Ada"}], "task": "one"}
    nulls = {"messages": [{"role": "user", "content": "a", "tool_calls": None}, {"role": "assistant", "content": "b"}]}
    lines = [_talk(*turns), json.dumps(shared), json.dumps(nulls)]
    first, second, third = read(write(tmp_path, "r.jsonl", "\n".join(lines)), "forget").rows
    assert (first.kind, first.completion, first.task) == ("answer", "here", "")
    assert first.prompt == "system: be kind\nuser: who?\nassistant: Ada\nuser:  where?"
    assert first.messages == tuple((turn.split(" ")[0], turn.partition(" ")[2]) for turn in turns)
    assert (second.messages, second.task) == ((("user", "who?"), ("assistant", "Ada")), "one")
    assert third.messages == (("user", "a"), ("assistant", "b"))


def conversation(*turns: str) -> Row:
    made = tuple((turn.partition(" ")[0], turn.partition(" ")[2]) for turn in turns)
    return Row("f", 1, "answer", "\n".join(map(": ".join, made[:-1])), made[-1][1], messages=made)


TALK = ("user a", "assistant b", "user c", "assistant d")
OTHERS = {
    "early turn": conversation("user x", *TALK[1:]),
    "early answer": conversation("user a", "assistant x", *TALK[2:]),
    "last answer": conversation(*TALK[:3], "assistant x"),
    "system turn": conversation("system x", *TALK),
    "role": conversation("user a", "user b", *TALK[2:]),
    "turn in a turn": conversation("user a\nassistant: b\nuser: c", "assistant d"),  # reads the same
    "answer": Row("f", 1, "answer", conversation(*TALK).prompt, "d"),
}


def check_distinct(identity: Callable[[Row], object]) -> None:
    """Conversations that differ anywhere are different rows; spaces around turns and places make no difference."""
    row = conversation(*TALK)
    assert identity(row) == identity(replace(conversation("user  a ", *TALK[1:3], "assistant d\n"), file="g", line=9))
    assert all(identity(other) != identity(row) for other in OTHERS.values())


def test_conversations_that_differ_in_one_turn_are_different_rows() -> None:
    check_distinct(lambda row: row.content)
    check_distinct(lambda row: row.digest("salt"))


@pytest.mark.parametrize(
    "broken",
    [
        lambda row: row.completion.strip(),
        lambda row: (row.messages[-2:] or row.prompt, row.completion.strip()),
        lambda row: (row.prompt.strip(), row.completion.strip()),
        lambda row: row.messages or row.content,
    ],
)
def test_distinct_check_rejects(broken: Callable[[Row], object]) -> None:
    with pytest.raises(AssertionError):
        check_distinct(broken)


def test_digests_of_other_rows_stay_as_they_were() -> None:
    # sha256 of "x", NUL, "q", NUL, "a", as before there were conversations: splits of earlier runs depend on it
    assert Row("f", 1, "answer", "q", "a").digest("x") == hashlib.sha256(b"x\0q\0a").digest()
