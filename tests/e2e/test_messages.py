"""Twenty-five wrong inputs and the whole of what is said about each; `test_wrong_input.py` has others, by words."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from expunge.cli import command_line
from problems import write_model

SECRET = "Quentin Xylander"
GOOD = f'{{"text": "{SECRET} is here"}}\n'
YAML = "Write plain keys and values, each value out in full."
TURN = 'Write turns as {"role": "user", "content": "..."}.'
QUOTE = "Write it as text, in quotes."


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("messages") / "model", width=16, layers=1)


def rows(content: str | bytes, name: str = "f.jsonl") -> Callable[[Path], dict[str, str]]:
    """Forget rows of that content."""

    def make(folder: Path) -> dict[str, str]:
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
        return {"forget": str(folder / name)}

    return make


def turns(*pairs: object) -> Callable[[Path], dict[str, str]]:
    return rows(json.dumps({"messages": pairs}))


def recipe(content: str) -> Callable[[Path], dict[str, str]]:
    def make(folder: Path) -> dict[str, str]:
        (folder / "r.yaml").write_text(content)
        return {"forget": str(folder / "f.jsonl"), "recipe": str(folder / "r.yaml")}

    return make


def pipe(folder: Path) -> dict[str, str]:
    os.mkfifo(folder / "f.jsonl")
    return {"forget": str(folder / "f.jsonl")}


def table(folder: Path) -> dict[str, str]:
    parquet.write_table(pyarrow.table({"text": [SECRET, None]}), folder / "f.parquet")
    return {"forget": str(folder / "f.parquet")}


def cut_table(folder: Path) -> dict[str, str]:
    file = Path(table(folder)["forget"])
    file.write_bytes(file.read_bytes()[:-9])
    return {"forget": str(file)}


# What {here} stands for is the folder.
CASES: dict[str, tuple[Callable[[Path], dict[str, str]], str]] = {
    "pipe": (pipe, "{here}/f.jsonl: the forget file cannot be read (it is a pipe). Name a regular file."),
    "utf-8": (rows(GOOD.encode() + b'{"text": "\xff"}'), "{here}/f.jsonl, line 2: not UTF-8. Save the file as UTF-8."),
    "nul": (
        rows(GOOD + "\0"),
        "{here}/f.jsonl, line 2: a NUL character, so this is no text. Save the file as UTF-8.",
    ),
    "json": (
        rows(GOOD + f'{{"text": {SECRET}}}'),
        "{here}/f.jsonl, line 2: not JSON (character 10). Each line must be one JSON object.",
    ),
    "twice": (
        rows(f'{{"text": "a", "text": "{SECRET}"}}'),
        "{here}/f.jsonl, line 1: not JSON (the key 'text' stands twice in one object). "
        "Each line must be one JSON object.",
    ),
    "secret key twice": (
        rows(f'{{"{SECRET}": 1, "{SECRET}": 2}}'),
        "{here}/f.jsonl, line 1: not JSON (the key (not a name) stands twice in one object). "
        "Each line must be one JSON object.",
    ),
    "nan": (
        rows('[{"text": "a"},\n{"text": "b", "id": NaN}]', "f.json"),
        "{here}/f.json, line 2: not JSON (NaN is no number). The file must be one array of objects, or "
        "one object a line.",
    ),
    "deep": (
        rows(GOOD + "[" * 9999),
        "{here}/f.jsonl, line 2: not JSON (nested too deeply). Each line must be one JSON object.",
    ),
    "digits": (
        rows('{"id": ' + "9" * 5000 + "}"),
        "{here}/f.jsonl, line 1: not JSON (a number with too many digits). Each line must be one JSON object.",
    ),
    "list": (
        rows(GOOD + f'["{SECRET}"]'),
        "{here}/f.jsonl, line 2: expected an object with named columns, found list. "
        "Known: text | prompt + completion | input + output | question + answer | instruction (+ input) + output | "
        "prompt + chosen | messages | conversations, and optionally id, task, alternate, paraphrase; or name the "
        "columns: --columns prompt=NAME completion=NAME, text=NAME or messages=NAME.",
    ),
    "number": (
        rows('{"prompt": 5, "completion": "a"}'),
        f"{{here}}/f.jsonl, line 1: column 'prompt' must be text, found int. {QUOTE}",
    ),
    "task": (
        rows(f'{{"text": "a", "task": ["{SECRET}"]}}'),
        f"{{here}}/f.jsonl, line 1: column 'task' must be text or a whole number, found list. {QUOTE}",
    ),
    "surrogate": (
        rows('{"text": "\\ud800"}'),
        "{here}/f.jsonl, line 1: column 'text' holds half a surrogate pair, which is no text. Remove it.",
    ),
    "empty": (
        rows(GOOD + '{"text": "\\n"}'),
        "{here}/f.jsonl, line 2: column 'text' is empty, so there is nothing to forget or keep. Remove the row.",
    ),
    "no turn": (
        turns(SECRET),
        "{here}/f.jsonl, line 1: column 'messages', turn 1: expected an object with role and content, found str. "
        + TURN,
    ),
    "tool": (
        turns({"role": "user", "content": "a"}, {"role": "tool", "content": SECRET}),
        "{here}/f.jsonl, line 1: column 'messages' must end with a turn of the assistant. That is what is forgotten or "
        "kept; cut off what follows.",
    ),
    "csv columns": (
        rows(f"text,text\n{SECRET},b\n", "f.csv"),
        "{here}/f.csv, line 1: two columns have the same name. Rename one of them.",
    ),
    "csv cells": (
        rows(f"text\na\n{SECRET},b\n", "f.csv"),
        "{here}/f.csv, line 3: more cells than columns. Put cells that hold commas in quotes.",
    ),
    "null cell": (
        table,
        "{here}/f.parquet, row 2: column 'text' must be text, found null. Fill it in, or remove the row.",
    ),
    "cut table": (
        cut_table,
        "{here}/f.parquet: the forget file cannot be read (broken, cut off or another format). Write it anew.",
    ),
    "alias": (
        recipe("a: &a [x]\nb: *a\n"),
        f"{{here}}/r.yaml, line 2: not YAML (an alias (*name), which is not read here). {YAML}",
    ),
    "key twice": (recipe("seed: 1\nseed: 2\n"), f"{{here}}/r.yaml, line 2: not YAML (a key that stands twice). {YAML}"),
    "tag": (recipe("seed: 1\nmodel: !!python/name:os.system x\n"), f"{{here}}/r.yaml, line 2: not YAML. {YAML}"),
    "long path": (
        recipe(f"retain: {'x' * 300}\n"),
        "{here}/r.yaml: retain has 300 characters, too many for a path. Name another.",
    ),
    "steering name": (
        rows(b"\xff", "\x1b[2J\u202e\nf.jsonl"),
        "{here}/[U+001B][2J[U+202E][U+000A]f.jsonl, line 1: not UTF-8. Save the file as UTF-8.",
    ),
}  # fmt: skip


def complaint(flags: dict[str, str], capsys: pytest.CaptureFixture[str]) -> str:
    code = command_line.main(["unlearn", *(part for name, value in flags.items() for part in (f"--{name}", value))])
    shown = capsys.readouterr()
    assert code == 2 and shown.out == ""
    return shown.err


@pytest.mark.parametrize("case", CASES)
def test_the_whole_message(case: str, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make, message = CASES[case]
    given = make(tmp_path) | {"model": str(model), "output": str(tmp_path / "out")}
    assert complaint(given, capsys) == f"expunge: {message.replace('{here}', str(tmp_path))}\n"
    assert SECRET not in message and not (tmp_path / "out").exists()


def test_there_are_twenty_five() -> None:
    assert len(CASES) == 25 and len({message for _, message in CASES.values()}) == 25
