"""Removes what interrupted runs left, and the caches. Outputs are never touched, but for one that a killed process was
about to replace, which gets its name back.

What may go: working folders (`workspace`) that no living process holds; temporary folders beside outputs that such a
working folder names and that still bear the name of one; the entries that expunge itself makes in its cache folder.
Everything else, wherever it lies, is somebody's.
"""

import os
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from expunge.runs import outputs, workspace

DEMO = "demo-*"
CACHED = {
    "twins": "retrained twins",
    "cells": "finished cells of comparisons",
    "evidence": "evidence of models, in numbers",
    DEMO: "models and runs of the demo",
}


@dataclass(frozen=True, slots=True)
class Left:
    """Something that may be removed, what it is, and its size."""

    path: Path
    what: str

    @property
    def bytes(self) -> int:
        files = [self.path, *self.path.rglob("*")] if self.path.is_dir() else [self.path]
        return sum(file.lstat().st_size for file in files if not file.is_dir())


def left(caches: bool = True) -> list[Left]:
    """Everything that may be removed now; without `caches`, only what interrupted runs left."""
    return [*_working("runs"), *abandoned(), *(_caches() if caches else ())]


def abandoned() -> list[Left]:
    """Temporary folders whose process is gone, with the half-written outputs that they note, and what calls were given
    in memory: of use to nobody."""
    return [*_working("temporary"), *_working("given")]


def rows_left() -> list[Left]:
    """What holds rows, or what models say of them: the same without the demo's, whose people nobody knows."""
    return [*left(caches=False), *_caches(set(CACHED) - {DEMO})]


def remove(found: list[Left]) -> list[Path]:
    """Removes what was found, but for what a run has taken up since; returns what is gone."""
    gone = []
    for one in found:
        if one.path.is_dir() and not one.path.is_symlink():
            if (one.path / workspace.LOCK).exists() and workspace.in_use(one.path):
                continue
            if not outputs.settle(one.path):  # what it was about to replace is put back first
                continue
            shutil.rmtree(one.path, ignore_errors=True)
        else:
            one.path.unlink(missing_ok=True)
        if not one.path.exists():
            gone.append(one.path)
    return gone


def _working(kind: str) -> Iterator[Left]:
    for folder in sorted((workspace.state_folder() / kind).glob("*")):
        if not folder.is_dir() or folder.is_symlink() or workspace.in_use(folder):
            continue
        note = folder / workspace.BESIDE
        if note.is_file():
            yield from _beside(Path(note.read_text(encoding="utf-8")))
        output = folder / workspace.OUTPUT
        of = f" of {output.read_text(encoding='utf-8')}" if output.is_file() else ""
        yield Left(folder, f"working folder{of}, whose run has ended")


def _beside(folder: Path) -> Iterator[Left]:
    """A half-written output: only what still bears the temporary name that it was given."""
    named, old = outputs.UNFINISHED.fullmatch(folder.name), folder.with_name(folder.name + outputs.OLD)
    if named and folder.is_dir() and not folder.is_symlink():
        yield Left(folder, f"unfinished output {named['output']}")
    elif named and old.is_dir() and not old.is_symlink() and os.path.lexists(folder.with_name(named["output"])):
        yield Left(old, f"output {named['output']} from before it was replaced")


def _caches(patterns: Collection[str] = CACHED.keys()) -> Iterator[Left]:
    for pattern, what in CACHED.items():
        if pattern not in patterns:
            continue
        for path in sorted(workspace.cache_folder().glob(pattern)):
            yield Left(path, what)
