"""Catalogues: one file per entry, and the file name is the registration.

A catalogue is a package of this distribution (see `CATALOGUES`). Listing one reads file names and the first line of
each docstring without importing anything, so that `--help` and `expunge list` answer at once. The entry of
`loss_matching.py` is its class `LossMatching`.
"""

import ast
import difflib
import importlib
from pathlib import Path
from typing import Any

from expunge.errors import InputError

CATALOGUES = ("methods", "curvatures", "metrics", "benchmarks")


def names(catalogue: str) -> tuple[str, ...]:
    """Entries of a catalogue in alphabetical order, found by their file names."""
    if catalogue not in CATALOGUES:
        raise InputError(f"there is no catalogue {catalogue!r}{suggestion(catalogue, CATALOGUES)}")
    files = (Path(__file__).parent / catalogue).glob("*.py")
    return tuple(sorted(file.stem for file in files if file.stem != "__init__"))


def summary(catalogue: str, name: str) -> str:
    """First line of the entry's module docstring, read without importing it."""
    source = (Path(__file__).parent / catalogue / f"{name}.py").read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(source)) or "").split("\n", 1)[0]


def load(catalogue: str, name: str) -> Any:
    """The class of one entry. Raises `InputError` with a near miss for an unknown name."""
    known = names(catalogue)
    if name not in known:
        raise InputError(f"there is no {catalogue.removesuffix('s')} {name!r}{suggestion(name, known)}")
    module = importlib.import_module(f"expunge.{catalogue}.{name}")
    return getattr(module, "".join(part.capitalize() for part in name.split("_")))


def suggestion(name: str, known: tuple[str, ...] | list[str]) -> str:
    """`; did you mean 'x'? Known: ...` for an error message."""
    if not known:
        return "; there are none."
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    return f"{meant} Known: {', '.join(known)}."
