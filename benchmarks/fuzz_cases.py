"""What `fuzz.py` gives to expunge: recipes and records spoilt in one way each, from a seeded generator.

The files of rows are made in `fuzz_rows.py`, in the same way.
"""

import copy
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import fuzz_rows
from fuzz_rows import ACCEPTED, DEEP, EITHER, REFUSED, Made, anything, as_bytes, damaged, lines

VALID = "seed: 3\nmethod: loss_matching\noptions:\n  steps: 5\njoin: space\nforget: rows.jsonl\nshow_rows: false\n"
PLAIN = ("x", "3", "0", "auto", "lora", "./x", "npo", "rows", "cpu", "no", "null", "true", "0.5", "''", "~", "{a: 1}")
SCALARS = (
    *("-1", "1e999", ".inf", ".nan", "0x" + "f" * 20, "1" * 5000, "2024-13-45", "12:30:45", "=", "[]", "[a, {b: c}]"),
    *("!!int x", "!!bool x", "!!timestamp x", "!!binary x", "!!python/object:os.system x", "!x y", "*x", "&x x"),
    *('"\\0"', '"\\e[2J"', '"\\ud800"', "a" * 5000, "'", "\t", "? x", "<<: x", "2024-01-01", "!!set {a, b}"),
)
KEYS = ("model", "forget", "retain", "seed", "context", "options", "method", "join", "show_rows", "variants",
        "output", "base", "device", "zzz", "5", "null", "[a]", "benchmark", "data_root", "chat_template")  # fmt: skip


@dataclass
class Case:
    """Files in a folder, by the flag that names them, and what must become of them.

    `named`: the file that a message must name. `lined`: a message must name a line or row too.
    """

    kind: str
    expected: str
    files: dict[str, str]
    named: str
    lined: bool = False
    command: str = "unlearn"


def recipe(chance: Random, folder: Path, content: bytes | str) -> str:
    raw = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    return as_bytes(folder, raw, "recipe.yaml")


def recipe_values(chance: Random, folder: Path) -> Made:
    """Some of the settings with any values, at most one of them hostile."""
    chosen = {key: chance.choice(PLAIN) for key in chance.sample(KEYS, chance.randint(1, 3))}
    if chance.random() < 0.6:
        chosen[chance.choice(list(chosen))] = chance.choice(SCALARS)
    content = "".join(f"{key}: {value}\n" for key, value in chosen.items())
    if "forget:" not in content:
        content += "forget: rows.jsonl\n"
    return recipe(chance, folder, content), EITHER, False


def recipe_plain(chance: Random, folder: Path) -> Made:
    """Settings in any order, with comments, a byte order mark, Windows line ends: all are accepted."""
    parts = ["seed: 3", "method: loss_matching", "options:\n  steps: 5", "join: space", "forget: rows.jsonl", "# é עם"]
    content = "\n".join(chance.sample(parts, len(parts))) + "\n"
    raw = chance.choice((b"", b"\xef\xbb\xbf")) + content.replace("\n", chance.choice(("\n", "\r\n"))).encode()
    return recipe(chance, folder, raw), ACCEPTED, False


def recipe_damaged(chance: Random, folder: Path) -> Made:
    return recipe(chance, folder, damaged(chance, VALID.encode())), EITHER, False


def recipe_aliases(chance: Random, folder: Path) -> Made:
    """A billion laughs, a list that holds itself, a merge."""
    names = "abcdefghijklmnopqrstuvwx"
    laughs = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [*{a}, *{a}]\n" for a, b in itertools.pairwise(names))
    bombs = (laughs, "seed: &a [*a]\n", "options: &a {b: *a}\n", "options: &a {x: y}\n<<: *a\n")
    return recipe(chance, folder, chance.choice(bombs)), REFUSED, True


def recipe_twice(chance: Random, folder: Path) -> Made:
    wrong = chance.choice(("seed: 1\n", "options: {a: 1, a: 2}\n", "options:\n  a: 1\n  a: 2\n"))
    return recipe(chance, folder, VALID + wrong), REFUSED, True


def recipe_deep(chance: Random, folder: Path) -> Made:
    content = chance.choice(("[", "{a: ", "- ", "? ")) * chance.choice((200, 20_000))
    return recipe(chance, folder, "options: " + content), REFUSED, True


def recipe_signs(chance: Random, folder: Path) -> Made:
    sign = chance.choice(("\\0", "\\e[2J", "\\u202e", "\\ud800", "\\x9b"))
    return recipe(chance, folder, f'{chance.choice(KEYS[:7])}: "a{sign}b"\n'), REFUSED, True


def recipe_types(chance: Random, folder: Path) -> Made:
    key, value = chance.choice((("seed", "soon"), ("forget", "5"), ("show_rows", "1"), ("context", "[1]"),
        ("join", "tab"), ("seed", "-1"), ("seed", ".nan"), ("context", ".inf"), ("model", "{a: b}"),
        ("forgett", "a"), ("options", "{steps: soon}"), ("options", "[a]"), ("method", "npoo"),
        ("seed", "9" * 30)))  # fmt: skip
    return recipe(chance, folder, f"{key}: {value}\n"), REFUSED, False


def _spoil_record(chance: Random, whole: Any) -> Any:
    """A value somewhere in a record replaced by anything or lost."""
    at = whole
    while True:
        keys = list(at) if isinstance(at, dict) else list(range(len(at)))
        key = chance.choice(keys)
        if not (isinstance(at[key], dict | list) and at[key]) or chance.random() < 0.25:
            break
        at = at[key]
    if chance.random() < 0.3:
        del at[key]
    else:
        at[key] = anything(chance)
    return whole


def record_entries(chance: Random, folder: Path, example: Any) -> Made:
    whole = copy.deepcopy(example)
    for _ in range(chance.choice((1, 1, 3))):
        whole = _spoil_record(chance, whole)
    return as_bytes(folder, json.dumps(whole).encode(), "record.json"), EITHER, False


def record_plain(chance: Random, folder: Path, example: Any) -> Made:
    raw = json.dumps(example, indent=chance.choice((None, 1))).encode()
    return as_bytes(folder, chance.choice((b"", b"\xef\xbb\xbf")) + raw, "record.json"), ACCEPTED, False


def record_damaged(chance: Random, folder: Path, example: Any) -> Made:
    raw = damaged(chance, json.dumps(example, indent=1).encode())
    return as_bytes(folder, raw, "record.json"), EITHER, False


def record_other(chance: Random, folder: Path, example: Any) -> Made:
    deep = b'{"schema": 2, "config": ' + chance.choice(DEEP).encode() * 50_000
    wrong = (b"", b"[]", b"5", b"{}", b'{"schema": NaN}', b'{"schema": 2, "schema": 2}', b"\xff", b"\0", deep)
    return as_bytes(folder, chance.choice(wrong), "record.json"), REFUSED, False


ROWS = {name: made for name, made in vars(fuzz_rows).items() if name.startswith("rows_")}
RECIPES = {name: made for name, made in list(globals().items()) if name.startswith("recipe_")}
RECORDS = {name: made for name, made in list(globals().items()) if name.startswith("record_")}
KINDS = (*ROWS, *RECIPES, *RECORDS)


def make(kind: str, seed: int, folder: Path, example: Any) -> Case:
    """The case of a kind and a seed, its files written; `example` is a right record."""
    chance = Random(f"{kind} {seed}")
    if kind in RECORDS:
        name, expected, lined = RECORDS[kind](chance, folder, example)
        return Case(kind, expected, {"record": name}, name, lined, "report")
    for file in ("rows", "holdout"):
        (folder / f"{file}.jsonl").write_bytes(lines([{"text": f"row {n} of {file}"} for n in range(8)]))
    if kind in RECIPES:
        name, expected, lined = RECIPES[kind](chance, folder)
        return Case(kind, expected, {"recipe": name}, name, lined)
    name, expected, lined = ROWS[kind](chance, folder)
    return Case(kind, expected, {"forget": name}, name, lined)
