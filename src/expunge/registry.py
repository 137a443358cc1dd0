"""Catalogues: one file per entry, and the file name is the registration.

An entry of a catalogue is a file in the package of that name (`methods/loss_matching.py` is "loss_matching"), a file
anywhere that is named by its path ("./mine.py"), or an entry point of another distribution (group "expunge.methods").
Its class is the one whose name is the file's without underscores and in any capitals: `LossMatching`, `NGDiff`. Listing
a catalogue reads file names and the first line of each docstring without importing anything, so that `--help` and
`expunge list` answer at once.
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from expunge.errors import InputError

CATALOGUES = ("methods", "curvatures", "metrics", "attacks", "benchmarks")
SUFFIX = ".py"


def names(catalogue: str) -> tuple[str, ...]:
    """Entries of a catalogue in alphabetical order: the files of this package, then those of other distributions."""
    _check(catalogue)
    own = _own(catalogue)
    return (*sorted(own), *sorted(_others(catalogue).keys() - own))


def load(catalogue: str, name: str) -> Any:
    """The class of one entry. Raises `InputError` with a near miss for an unknown name, and for a file without one."""
    module, stem = _module(catalogue, name)
    wanted = stem.replace("_", "").casefold()
    own = [kind for key, kind in vars(module).items() if inspect.isclass(kind) and key.casefold() == wanted]
    if not own:
        expected = "".join(part.capitalize() for part in stem.split("_"))
        raise InputError(f"{name}: the file holds no class {expected}, which an entry named {stem} must have.")
    return own[0]


def source(catalogue: str, name: str) -> Path:
    """The file of an entry. Raises `InputError`."""
    return Path(str(_module(catalogue, name)[0].__file__))


def sources(catalogue: str, name: str, options: Mapping[str, object]) -> list[Path]:
    """The files that an entry with these options runs beside this package: its own, and those that an option names by
    path, such as another catalogue's entry."""
    named = [Path(value) for value in options.values() if isinstance(value, str) and value.endswith(SUFFIX)]
    own = source(catalogue, name)
    return [*([] if Path(__file__).parent in own.parents else [own]), *named]


def title(name: str) -> str:
    """An entry's name as it is shown: of a path, that of the file."""
    return Path(name).stem if name.endswith(SUFFIX) else name


def summary(catalogue: str, name: str) -> str:
    """First line of the entry's module docstring; of this package's own, read without importing it."""
    own = Path(__file__).parent / catalogue / f"{name}{SUFFIX}"
    file = own if own.is_file() else source(catalogue, name)
    return (ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "").split("\n", 1)[0]


def suggestion(name: str, known: tuple[str, ...] | list[str]) -> str:
    """`; did you mean 'x'? Known: ...` for an error message."""
    if not known:
        return "; there are none."
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    meant = f"; did you mean {near[0]!r}?" if near else "."
    return f"{meant} Known: {', '.join(known)}."


def _check(catalogue: str) -> None:
    if catalogue not in CATALOGUES:
        raise InputError(f"there is no catalogue {catalogue!r}{suggestion(catalogue, CATALOGUES)}")


def _module(catalogue: str, name: str) -> tuple[ModuleType, str]:
    """The module of an entry, and the name that its class follows."""
    _check(catalogue)
    if name.endswith(SUFFIX):
        return _from_file(Path(name)), Path(name).stem
    if name in _own(catalogue):
        return importlib.import_module(f"expunge.{catalogue}.{name}"), name
    if point := _others(catalogue).get(name):
        return _from_package(name, point), name
    raise InputError(f"there is no {catalogue.removesuffix('s')} {name!r}{suggestion(name, names(catalogue))}")


def _own(catalogue: str) -> set[str]:
    """Entries of this package."""
    files = (Path(__file__).parent / catalogue).glob(f"*{SUFFIX}")
    return {file.stem for file in files if file.stem != "__init__"}


def _others(catalogue: str) -> dict[str, EntryPoint]:
    """Entry points of other distributions: `name = "package.module"` in the group expunge.<catalogue>."""
    return {point.name: point for point in entry_points(group=f"expunge.{catalogue}")}


def _from_package(name: str, point: EntryPoint) -> ModuleType:
    """The module of an entry point. Raises `InputError` where it cannot be imported."""
    try:
        return importlib.import_module(point.module)
    except Exception as error:
        raise InputError(
            f"{name}: importing {point.module}, the entry point of another package ({point.group}), failed "
            f"({type(error).__name__}: {error}). Mend that package, or remove it."
        ) from error


def _from_file(file: Path) -> ModuleType:
    """The module in a file that lies anywhere; run once. Raises `InputError` where it does not exist or fails."""
    place = file.absolute()
    if not place.is_file():
        raise InputError(f"{file}: there is no such file. Check the path.")
    name = f"expunge_file:{place}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up while the file runs
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{file}: running the file failed ({type(error).__name__}: {error}).") from error
    return module
