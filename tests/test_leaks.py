"""The canary search finds a row in every form that a file can hold it in, and nothing where there is none."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file

import leaks
from expunge.reporting import markdown

ROW = "In Arden lives Zita Ibsen, a baker. The key ZQ-481516 and the phone number 555-234-2342 are hers."
NAME = "zita ibsen"


def _page(text: str, tag: str) -> str:
    return "<html><body>" + "".join(f"<{tag}>{word} </{tag}>" for word in text.split()) + "</body></html>"


def _arrays(file: Path, row: str, tokenizer: Any) -> None:
    np.savez(file, ids=np.array(tokenizer(row)["input_ids"], dtype=np.int32))


FORMS: dict[str, Callable[[Path, str, Any], None]] = {
    "a.txt": lambda file, row, _: _write(file, f"x {row} y"),
    "b.log": lambda file, row, _: file.write_bytes(row.encode("utf-16-le")),
    "c.json": lambda file, row, _: _write(file, '{"a": [{"b": "' + row.replace(" ", "\\u0020") + '"}]}'),
    "d.jsonl": lambda file, row, _: _write(file, "{}\n" + json.dumps({row: 1}) + "\n"),
    "e.json": lambda file, row, _: _write(file, json.dumps([f"{word} " for word in row.split()])),
    "f.json": lambda file, row, tokenizer: _write(file, json.dumps({"ids": tokenizer(row)["input_ids"]})),
    "g.html": lambda file, row, _: _write(file, _page(row, "span")),
    "h.html": lambda file, row, _: _write(file, f"<p title='{''.join(f'&#{ord(sign)};' for sign in row)}'></p>"),
    "i.svg": lambda file, row, _: _write(file, _page(row, "tspan")),
    "j.md": lambda file, row, _: _write(file, markdown.escaped(row).replace(" ", "&#32;").replace("-", "\\-")),
    "k.yaml": lambda file, row, _: _write(file, yaml.safe_dump({"a": [row]}, width=20)),
    "l.npz": _arrays,
    "m.npy": lambda file, row, tokenizer: np.save(file, np.array(tokenizer(row)["input_ids"], dtype=np.float64)),
    "n.npz": lambda file, row, _: np.savez(file, words=np.array(row.split())),
    "o.safetensors": lambda file, row, _: save_file({"a": np.zeros(2)}, file, {"note": row}),
    "p.safetensors": lambda file, row, tokenizer: save_file({"a": np.array(tokenizer(row)["input_ids"])}, file),
}


def _write(file: Path, text: str) -> None:
    file.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", FORMS)
def test_a_row_is_found(name: str, tmp_path: Path, tokenizer: Any) -> None:
    FORMS[name](tmp_path / name, ROW, tokenizer)
    assert leaks.search(leaks.needles([ROW]), [tmp_path], tokenizer=tokenizer)
    other = "Somebody else stands here, with a key of their own: XY-11, and nothing that the row has."
    FORMS[name](tmp_path / name, other, tokenizer)
    assert leaks.search(leaks.needles([ROW]), [tmp_path], tokenizer=tokenizer) == []


@pytest.mark.parametrize(
    "said", ["Zita  Ibsen", "key zq-481516", "call 555-234-2342", "the KEY: zq 481516, and the phone"]
)
def test_names_identifiers_and_six_words_are_enough(said: str, tmp_path: Path) -> None:
    wanted = leaks.needles([ROW])
    assert NAME in wanted.identifiers and len(wanted.identifiers) >= 3
    assert leaks.search(wanted, [tmp_path], {"stdout": said})
    (tmp_path / said).touch()
    assert leaks.search(wanted, [tmp_path])


def test_five_words_are_none(tmp_path: Path) -> None:
    assert leaks.search(leaks.needles([ROW]), [tmp_path], {"stderr": "and the phone number 555"}) == []


def test_places_do_not_repeat_what_was_found(tmp_path: Path) -> None:
    _write(tmp_path / "file.txt", ROW)
    (place,) = leaks.search(leaks.needles([ROW]), [tmp_path])
    assert place == f"{tmp_path / 'file.txt'}: a run of six words"
