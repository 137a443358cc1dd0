"""Which files of this package something is made by: a module and all that it imports, read from the import statements.

Caches are keyed by the code that fills them. A list of file names kept by hand would miss what a later change adds, and
a hash of the whole package would throw everything away with every change of a page.
"""

import ast
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def made_by(*modules: str) -> list[Path]:
    """Files of the modules ("loop.training"; a package stands for all of its files) and of all that they import.

    What is loaded by name (entries of catalogues) stands in no import statement, so callers name it. Raises
    `ValueError` for a module that does not exist.
    """
    return made_by_files([file for module in modules for file in _files(module)])


def made_by_files(files: Iterable[Path]) -> list[Path]:
    """The same for files that may lie anywhere."""
    found: set[Path] = set()
    waiting = list(files)
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imported(file)
    return sorted(found)


def _files(module: str) -> list[Path]:
    place = PACKAGE.joinpath(*module.split("."))
    if place.is_dir():
        return sorted(place.rglob("*.py"))
    if not (file := place.with_suffix(".py")).is_file():
        raise ValueError(f"expunge has no module {module!r}")
    return [file]


@cache
def _imported(file: Path) -> tuple[Path, ...]:
    """The files of this package that a file imports anywhere, within functions too."""
    found = []
    for name in _names(ast.parse(file.read_text(encoding="utf-8"))):
        parts = name.split(".")
        if parts[0] != PACKAGE.name or len(parts) == 1:  # the package itself names its functions, and imports them late
            continue
        place = PACKAGE.joinpath(*parts[1:])
        candidates = (place.with_suffix(".py"), place / "__init__.py")
        found += [candidate for candidate in candidates if candidate.is_file()]
    return tuple(found)


def _names(tree: ast.AST) -> Iterator[str]:
    """Modules named by import statements; of `from a import b` both a and a.b, since b may be a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
