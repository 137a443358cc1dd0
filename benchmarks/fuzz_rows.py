"""The files of rows that `fuzz.py` gives to expunge, spoilt in one way each, and the generators behind them.

Each maker writes one file into an empty folder and says what must become of it: REFUSED, ACCEPTED, or EITHER, where
chance decides whether the file is still right. All rows are invented; `SECRET` stands in each of them.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pyarrow
from pyarrow import parquet

REFUSED, ACCEPTED, EITHER = "refused", "accepted", "either"
SECRET = "zq7secret"
DEEP = ("[", '{"a":', "[[", '[{"b":[')

Made = tuple[str, str, bool]
"""Name of the file, what must become of it, whether a message must name a line."""


def text(chance: Random) -> str:
    """Text of a row: letters of many scripts, spaces, marks."""
    ranges = ((32, 126), (160, 591), (0x5D0, 0x64A), (0x4E00, 0x4F00), (0x1F600, 0x1F640), (9, 10))
    signs = (chr(chance.randint(*chance.choice(ranges))) for _ in range(chance.randint(0, 40)))
    return SECRET + " " + "".join(signs) + "."


def right(chance: Random, count: int = 8) -> list[dict[str, Any]]:
    """Rows that nothing is wrong with."""
    kind = chance.choice(("text", "pair", "turns"))
    if kind == "text":
        return [{"text": f"{n} {text(chance)}"} for n in range(count)]
    if kind == "pair":
        return [{"prompt": f"{n}?", "completion": f"{n} {text(chance)}", "task": "one"} for n in range(count)]
    users = [{"role": "user", "content": f"{n} {text(chance)}"} for n in range(count)]
    return [{"messages": [user, {"role": "assistant", "content": text(chance)}]} for user in users]


def anything(chance: Random, depth: int = 3) -> Any:
    """Any JSON value."""
    kinds: list[Callable[[], Any]] = [
        lambda: None, lambda: chance.choice((True, False)), lambda: chance.choice((0, -1, 10**18, 10**400, 10**4000)),
        lambda: chance.choice((0.5, -1e308, 1e-320)), lambda: text(chance), lambda: "", lambda: "\u0000\x1b[2J",
        lambda: "\ud800",
    ]  # fmt: skip
    if depth:
        kinds += [
            lambda: [anything(chance, depth - 1) for _ in range(chance.randint(0, 4))],
            lambda: {text(chance): anything(chance, depth - 1) for _ in range(chance.randint(0, 3))},
        ]
    return chance.choice(kinds)()


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def damaged(chance: Random, raw: bytes) -> bytes:
    """Cut off anywhere, or with some bytes flipped, doubled or lost."""
    content = bytearray(raw)
    if chance.random() < 0.25:
        return bytes(content[: chance.randrange(len(raw))])
    for _ in range(chance.choice((1, 2, 5, 20))):
        place = chance.randrange(len(content))
        if chance.random() < 0.6:
            content[place] = chance.randrange(256)
        elif chance.random() < 0.5:
            content[place:place] = content[place : place + chance.randint(1, 9)]
        else:
            del content[place]
    return bytes(content)


def _spoil(chance: Random, folder: Path, change: Callable[[Any], Any]) -> str:
    """A .jsonl file of right rows of which one was changed."""
    rows: list[Any] = right(chance)
    place = chance.randrange(len(rows))
    rows[place] = change(rows[place])
    raw = b"".join(row + b"\n" if isinstance(row, bytes) else lines([row]) for row in rows)
    (folder / "forget.jsonl").write_bytes(raw)
    return "forget.jsonl"


def as_bytes(folder: Path, raw: bytes, name: str = "forget.jsonl") -> str:
    (folder / name).write_bytes(raw)
    return name


def _insert(chance: Random, what: bytes) -> Callable[[Any], bytes]:
    """Bytes put somewhere into a row's line."""

    def change(row: Any) -> bytes:
        raw = lines([row]).rstrip(b"\n")
        place = chance.randrange(len(raw))
        return raw[:place] + what + raw[place:]

    return change


def rows_damaged(chance: Random, folder: Path) -> Made:
    return as_bytes(folder, damaged(chance, lines(right(chance)))), EITHER, True


def rows_utf8(chance: Random, folder: Path) -> Made:
    broken = chance.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xc0\x80"))
    return _spoil(chance, folder, _insert(chance, broken)), REFUSED, True


def rows_encoding(chance: Random, folder: Path) -> Made:
    raw = lines([*right(chance), {"text": "é"}]).decode().encode(chance.choice(("utf-16", "utf-16-le", "utf-32")))
    return as_bytes(folder, raw), REFUSED, True


def rows_nul(chance: Random, folder: Path) -> Made:
    return _spoil(chance, folder, _insert(chance, b"\0" * chance.choice((1, 100)))), REFUSED, True


def rows_plain(chance: Random, folder: Path) -> Made:
    """A byte order mark, Windows line ends, blank lines, a long line, text from right to left: all are accepted."""
    rows, raw = right(chance), b""
    rows[0] |= {"id": chance.choice((10**30, -0.5, None, [[1]], "\u202e"))}
    rows.append(rows[0] | {"task": "שלום عالم"})
    if chance.random() < 0.2:
        rows.append({"text": "word " * chance.choice((20_000, 200_000))})
    raw = lines(rows)
    raw = raw.replace(b"\n", chance.choice((b"\n", b"\r\n", b"\n\n \n")))
    return as_bytes(folder, chance.choice((b"", b"\xef\xbb\xbf")) + raw), ACCEPTED, True


def rows_deep(chance: Random, folder: Path) -> Made:
    deep = chance.choice(DEEP) * chance.choice((2_000, 50_000))
    value = chance.choice((deep, '{"id": ' + deep, '{"messages": ' + deep))
    return _spoil(chance, folder, lambda row: value.encode()), REFUSED, True


def rows_types(chance: Random, folder: Path) -> Made:
    wrong = chance.choice((None, 5, True, 0.5, [SECRET], {SECRET: SECRET}, [], {}, [[]], [None], [{"role": 5}]))

    def change(row: Any) -> Any:
        return row | {chance.choice([key for key in row if key != "task"]): wrong}

    return _spoil(chance, folder, change), REFUSED, True


def rows_twice(chance: Random, folder: Path) -> Made:
    """A key twice in a row, or deep inside one."""
    inner = '{"text": "%s", "id": {"a": 1, "a": 2}}'
    doubled = chance.choice(('{"text": "%s", "text": "b"}', inner, '{"%s": 1, "%s": 2}'))
    return _spoil(chance, folder, lambda row: doubled.replace("%s", SECRET).encode()), REFUSED, True


def rows_surrogates(chance: Random, folder: Path) -> Made:
    half = chance.choice(("\\ud800", "\\udfff", "\\udc00\\ud800"))
    wrong = chance.choice(('{"text": "%s %s"}', '{"text": "%s", "task": "%s"}', '{"%s %s": 1}'))
    return _spoil(chance, folder, lambda row: (wrong % (SECRET, half)).encode()), REFUSED, True


def rows_empty(chance: Random, folder: Path) -> Made:
    nothing = chance.choice(("", " ", "\n\t", "\u3000"))
    row = chance.choice(({"text": nothing}, {"prompt": SECRET, "completion": nothing}, {}, {"task": SECRET}))
    return _spoil(chance, folder, lambda _: row), REFUSED, True


def rows_numbers(chance: Random, folder: Path) -> Made:
    number = chance.choice(("NaN", "-Infinity", "1e999", "-1e999", "1" * 5000))
    wrong = chance.choice(('{"text": "%s", "id": %s}', '{"text": "%s", "task": [%s]}', '[{"text": "%s"}, %s]'))
    return _spoil(chance, folder, lambda row: (wrong % (SECRET, number)).encode()), REFUSED, True


def rows_anything(chance: Random, folder: Path) -> Made:
    return _spoil(chance, folder, lambda row: anything(chance)), REFUSED, True


def rows_turns(chance: Random, folder: Path) -> Made:
    """Conversations with turns in any order and of any form."""
    roles = ("user", "assistant", "system", "tool", SECRET, None, 5)
    words = (SECRET, "", None, 5, [SECRET])
    turns = [{"role": chance.choice(roles), "content": chance.choice(words)} for _ in range(chance.randint(0, 5))]
    return _spoil(chance, folder, lambda row: {"messages": turns}), EITHER, True


def rows_array(chance: Random, folder: Path) -> Made:
    """A .json file: a single row, which may be right, no rows at all, or an array with one wrong element."""
    rows: list[Any] = right(chance)
    rows[chance.randrange(len(rows))] = anything(chance)
    whole = chance.choice((rows, rows[0], {"rows": rows}, SECRET))
    raw = json.dumps(whole, indent=chance.choice((None, 1))).encode()
    return as_bytes(folder, raw, "forget.json"), EITHER if whole is rows[0] else REFUSED, whole is rows


def rows_csv(chance: Random, folder: Path) -> Made:
    cells = (SECRET, '"', '""', ",", "\n", "\r\n", "\r", "a", ";", "text", "=1+1")
    body = "".join(chance.choice(cells) for _ in range(chance.randint(0, 30)))
    head = chance.choice(("text\n", "text,text\n", "prompt,completion\n", "\n", f"{SECRET}\n", "text,,\n"))
    return as_bytes(folder, (head + body).encode(), "forget.csv"), EITHER, True


def rows_parquet(chance: Random, folder: Path) -> Made:
    file = folder / "forget.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(right(chance)), file, row_group_size=3)
    file.write_bytes(damaged(chance, file.read_bytes()))
    return file.name, EITHER, False


def rows_parquet_types(chance: Random, folder: Path) -> Made:
    wrong = chance.choice((5, 0.5, True, None, b"\xff", [SECRET], [[[SECRET]]], {"a": SECRET}))
    name = chance.choice(("text", "messages", "prompt", SECRET))
    parquet.write_table(pyarrow.Table.from_pylist([{name: wrong}]), folder / "forget.parquet")
    return "forget.parquet", REFUSED, True


def rows_bomb(chance: Random, folder: Path) -> Made:
    """A few kilobytes that unpack to 5 GiB: a cell of 1 MiB that a dictionary gives to every row."""
    cells = pyarrow.DictionaryArray.from_arrays(pyarrow.array([0] * 5200, pyarrow.int32()), ["a" * (1 << 20)])
    parquet.write_table(pyarrow.table({"text": cells}), folder / "forget.parquet", compression="zstd")
    return "forget.parquet", REFUSED, False


def rows_no_file(chance: Random, folder: Path) -> Made:
    """No file at all: a folder, a pipe, a device, a loop of links, a link to nothing, a name nobody can have."""
    suffix = chance.choice((".jsonl", ".json", ".csv", ".parquet", ".txt"))
    file = folder / f"forget{suffix}"
    makers = (
        file.mkdir,
        lambda: os.mkfifo(file),
        lambda: file.symlink_to("/dev/zero"),
        lambda: file.symlink_to(file.name),
        lambda: file.symlink_to("nothing"),
        lambda: None,
    )
    chance.choice(makers)()
    return file.name, REFUSED, False


def rows_names(chance: Random, folder: Path) -> Made:
    """A file whose very name would steer a terminal or cannot be printed."""
    name = chance.choice(("a\x1b[2J\x07", "b\nexpunge: all is well", "c\u202e", "d\x9b1m", os.fsdecode(b"e\xff")))
    return as_bytes(folder, b'{"text": "a"}\n{', f"{name}.jsonl"), REFUSED, True
