"""A canary search: do strings of rows stand in what a run left, in whatever form a file holds them?

Looked for: any run of six words, every name and every identifier (keys, phone numbers, dates, addresses of mail, long
numbers). Looked through: names of files, their bytes as text, and what they hold once decoded: strings of JSON and
YAML, the text of HTML and SVG, Markdown without its escapes, arrays of NumPy and safetensors (as text, and integers as
token ids), metadata of safetensors.
"""

import html
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from safetensors import safe_open

RUN = 6
IDENTIFIERS = re.compile(
    r"\b[A-Z]{2,}-\d{3,}\b|\b\d{3}-\d{3}-\d{4}\b|\b\d{1,2} [A-Z][a-z]+ \d{4}\b|[\w.+-]+@[\w-]+\.[\w.]+|\b\d{5,}\b"
    r"|\b[A-Z][a-z]+ [A-Z][a-z]+\b"
)


@dataclass(frozen=True, slots=True)
class Needles:
    """What no file may hold: runs of words, and identifiers as they read."""

    runs: frozenset[tuple[str, ...]]
    identifiers: frozenset[str]

    def found(self, text: str) -> str:
        """The kind of needle that stands in a text, or nothing. Never the needle: a failing test is redacted too."""
        words = _words(text)
        if any(tuple(words[place : place + RUN]) in self.runs for place in range(len(words) - RUN + 1)):
            return "a run of six words"
        said = " ".join(text.replace("Ġ", " ").casefold().split())
        return "an identifier" if any(one in said for one in self.identifiers) else ""


def needles(rows: Iterable[str]) -> Needles:
    """Of the texts of rows (prompt and completion joined)."""
    texts = list(rows)
    runs = {tuple(words[place : place + RUN]) for words in map(_words, texts) for place in range(len(words) - RUN + 1)}
    found = {" ".join(one.casefold().split()) for text in texts for one in IDENTIFIERS.findall(text)}
    return Needles(frozenset(runs), frozenset(found))


def search(
    wanted: Needles, folders: Sequence[Path], said: Mapping[str, str] | None = None, tokenizer: Any = None
) -> list[str]:
    """Where needles stand: files below the folders, and texts by name (stdout, stderr)."""
    places = [f"{name}: {kind}" for name, text in (said or {}).items() if (kind := wanted.found(text))]
    for file in sorted(one for folder in folders for one in folder.rglob("*")):
        kinds = {kind for text in _texts(file, tokenizer) if (kind := wanted.found(text))}
        places += [f"{file}: {kind}" for kind in sorted(kinds)]
    return places


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.replace("Ġ", " ").casefold())


def _texts(file: Path, tokenizer: Any) -> Iterator[str]:
    yield file.name
    if not file.is_file():
        return
    raw = file.read_bytes()
    for encoding in ("utf-8", "utf-16-le"):
        yield raw.decode(encoding, "ignore")
    text, suffix = raw.decode("utf-8", "ignore"), file.suffix.lower()
    if suffix in (".json", ".jsonl", ".yaml"):
        for content in _parsed(text, suffix):
            yield from _nested(content, tokenizer)
    elif suffix in (".html", ".svg"):
        yield from _Page(text).texts()
    elif suffix == ".md":
        yield html.unescape(re.sub(r"\\(\W)", r"\1", text))
    elif suffix in (".npz", ".npy"):
        loaded = np.load(file, allow_pickle=False)
        arrays = dict(loaded) if suffix == ".npz" else {"": loaded}
        for name, array in arrays.items():
            yield name
            yield from _array(array, tokenizer)
    elif suffix == ".safetensors":
        with safe_open(file, framework="np") as tensors:
            yield json.dumps(tensors.metadata())
            for name in tensors.keys():  # noqa: SIM118 (no mapping)
                yield from _array(tensors.get_tensor(name), tokenizer)


def _parsed(text: str, suffix: str) -> list[Any]:
    if suffix == ".yaml":
        return [yaml.safe_load(text)]
    return (
        [json.loads(line) for line in text.splitlines() if line.strip()] if suffix == ".jsonl" else [json.loads(text)]
    )


def _nested(content: Any, tokenizer: Any) -> Iterator[str]:
    """Every string, lists of strings run together, and lists of numbers as an array."""
    if isinstance(content, str):
        yield content
    elif isinstance(content, dict):
        for key, value in content.items():
            yield str(key)
            yield from _nested(value, tokenizer)
        yield "".join(str(key) for key in content)
    elif isinstance(content, list):
        if content and all(isinstance(one, int | float) for one in content):
            yield from _array(np.array(content), tokenizer)
        strings = [one for one in content if isinstance(one, str)]
        yield from (" ".join(strings), "".join(strings))
        for one in content:
            yield from _nested(one, tokenizer)


def _array(array: Any, tokenizer: Any) -> Iterator[str]:
    if array.dtype.kind in "US":
        flat = [one.decode("utf-8", "ignore") if isinstance(one, bytes) else str(one) for one in array.ravel().tolist()]
        yield from (" ".join(flat), "".join(flat))
    if tokenizer is None or array.dtype.kind not in "iuf" or not array.size:
        return
    flat = array.astype(np.float64).ravel()
    if np.isfinite(flat).all() and (flat == flat.round()).all() and flat.min() >= 0 and flat.max() < len(tokenizer):
        yield tokenizer.decode(flat.astype(int).tolist())


class _Page(HTMLParser):
    """Text and attributes of a page or a drawing; pieces of text also run together, as a drawing may cut words."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.pieces: list[str] = []
        self.attributes: list[str] = []
        self.feed(text)

    def handle_data(self, data: str) -> None:
        self.pieces.append(data)

    def handle_comment(self, data: str) -> None:
        self.pieces.append(data)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [value for _, value in attrs if value]

    def texts(self) -> Iterator[str]:
        yield from (" ".join(self.pieces), "".join(self.pieces), *self.attributes)
