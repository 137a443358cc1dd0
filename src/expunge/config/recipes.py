"""Recipes: YAML to configurations and back, and where the paths in them lead."""

import dataclasses
import os
import reprlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import yaml

from expunge import registry
from expunge.config import commands, flags, options, shipped
from expunge.config.bounds import fields_naming
from expunge.config.commands import EARLIER, HUB, MODELS, ROWS
from expunge.errors import InputError, kind_of
from expunge.files import reading, strict_yaml

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

DATA_ROOT = "EXPUNGE_DATA"
PLANNED: dict[type[Any], type[Any]] = {commands.Plan: commands.Unlearn}  # whose recipes are also a plan's
UNRECORDED = (
    "recipe",
    "restart",
    "overwrite",
    "report_to",
    "push_to_hub",
    "endpoint_requests",
    "endpoint_timeout",
)  # change no result


def from_yaml(path: str | Path, kind: "type[DataclassInstance]", root: str | None = None) -> dict[str, object]:
    """The keys of a recipe that a command knows. Raises `InputError` on unknown keys, with a near miss.

    Relative paths in a recipe resolve against the recipe (see `shipped.find` for a shipped one), unless a data root is
    given (by `root`, the recipe itself or the environment), which then holds the files of rows.
    """
    content = read_yaml(path)
    passed_over = {*_names(PLANNED.get(kind, kind))} - {*_names(kind)}
    content = {key: value for key, value in content.items() if key not in passed_over}
    check_known(kind, content, str(path))
    _refuse_code(content, str(path))
    recipe = shipped.find(path)
    below_root = bool(root or content.get("data_root") or os.environ.get(DATA_ROOT))
    resolved = dict(content)
    if isinstance(named := content.get("data_root"), str):
        resolved["data_root"] = str(recipe.beside(named))

    def place(key: str, value: object) -> object:
        if isinstance(value, str):
            reading.check_name(value, f"{path}: {key}")
        if not isinstance(value, str) or (below_root and key in (*ROWS, EARLIER)):
            return value
        beside = recipe.beside(value)
        is_name = (key in MODELS and not value.startswith(".")) or (key in (*ROWS, EARLIER) and value.startswith(HUB))
        return value if is_name and not beside.exists() else str(beside)

    for key in fields_naming(kind):
        if key in content and key != "data_root":
            value = content[key]
            resolved[key] = [place(key, one) for one in value] if isinstance(value, list) else place(key, value)
    return resolved


def check_known(kind: "type[DataclassInstance]", given: Iterable[object], source: str) -> None:
    """Raises `InputError` for a key that a command does not take, with the commands that do or a near miss."""
    for key in given:
        if key in (known := _names(kind)):
            continue
        others = commands.taking(str(key))
        more = f"; it is one of {', '.join(others)}." if others else registry.suggestion(str(key), known)
        raise InputError(f"{source}: unknown key {reprlib.repr(str(key))}{more}")


def _names(kind: "type[DataclassInstance]") -> list[str]:
    return [field.name for field in dataclasses.fields(kind)]


def _refuse_code(value: object, path: str) -> None:
    """Raises `InputError` where a recipe, which may be somebody else's, names a Python file to be run."""
    if isinstance(value, str) and value.endswith(registry.SUFFIX):
        raise InputError(
            f"{path}: {reprlib.repr(value)} names a Python file, and no recipe chooses code that is run. Name the file "
            "yourself: --method FILE, or as an argument in Python."
        )
    for one in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_code(one, path)


def read_yaml(path: str | Path) -> dict[str, object]:
    """A YAML mapping, from a file or a shipped recipe's name. Raises `InputError`."""
    file = shipped.find(path).file
    content = strict_yaml.parse(reading.read_text(file, "the recipe"), str(path))
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values, found {kind_of(content)}. Write `key: value` lines.")
    return content


def data_path(inputs: flags.Inputs, role: str) -> str | None:
    """The path of a file of rows, below the data root where one is given and the path is relative; None for a command
    that takes no such rows."""
    return _below_root(inputs, getattr(inputs, role, None))


def earlier_paths(inputs: flags.Inputs) -> list[str]:
    """The files of rows of earlier requests, placed as `data_path` places the others; none for some commands."""
    return [str(_below_root(inputs, path)) for path in getattr(inputs, EARLIER, ())]


def _below_root(inputs: flags.Inputs, value: str | None) -> str | None:
    root = inputs.data_root or os.environ.get(DATA_ROOT)
    if value is None or root is None or Path(value).is_absolute():
        return value
    below = Path(root) / value
    return value if value.startswith(HUB) and not below.exists() else str(below)


def resolved(config: flags.Inputs) -> dict[str, object]:
    """The configuration as plain values, which replays the run when given as a recipe."""
    plain = {
        key: value for key, value in dataclasses.asdict(config).items() if key not in UNRECORDED and value is not None
    }
    for role in ROWS:
        if role in plain:
            plain[role] = _in_full(data_path(config, role) or "")
    if EARLIER in plain:
        plain[EARLIER] = tuple(_in_full(path) for path in earlier_paths(config))
    if "ledger" in plain:
        plain["ledger"] = str(Path(plain["ledger"]).absolute())
    for role in (*MODELS, "retrained_log", "train_config", "curvature"):
        if role in plain and Path(plain[role]).exists():
            plain[role] = str(Path(plain[role]).absolute())
    if "output" in plain:
        plain["output"] = str(Path(plain["output"]).absolute())
    plain.pop("data_root", None)
    return plain


def _in_full(path: str) -> str:
    return path if path.startswith(HUB) and not Path(path).exists() else str(Path(path).absolute())


def to_yaml(values: Mapping[str, object]) -> str:
    """A recipe that `--recipe` reads back."""
    return str(yaml.safe_dump(dict(values), sort_keys=False, allow_unicode=True))


def configuration(kind: type[options.Kind], settings: Mapping[str, object]) -> options.Kind:
    """What is given over the recipe that it may name (`recipe`) over the defaults. Raises `InputError`."""
    source = kind.__name__.lower()
    check_known(kind, settings, source)
    if (recipe := settings.get("recipe")) is None:
        return options.build(kind, settings, source)
    if not isinstance(recipe, str | os.PathLike):
        raise InputError(f"{source}: recipe must name a file or a shipped recipe, found {kind_of(recipe)}.")
    root = cast("str | os.PathLike[str] | None", settings.get("data_root"))
    values = from_yaml(os.fspath(recipe), kind, None if root is None else os.fspath(root))
    return options.build(kind, values | dict(settings), source)
