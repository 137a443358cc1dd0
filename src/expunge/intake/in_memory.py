"""Calls from Python: what was given becomes a configuration, and rows and models in memory become files meanwhile.

They lie in an owner-only folder that follows from the output, so that the same call goes on where it was interrupted;
what a killed call leaves is removed by `expunge purge`. A model is written as it stands in memory, with its tokenizer.
"""

import functools
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from expunge.config import options, recipes
from expunge.config.bounds import fields_naming
from expunge.errors import InputError, first_line
from expunge.runs import launcher, workspace

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Saved(Protocol):
    """A model or tokenizer of transformers or peft that is loaded."""

    def save_pretrained(self, save_directory: str) -> object: ...


Rows = str | os.PathLike[str] | Iterable[Mapping[str, Any]]
Model = str | os.PathLike[str] | Saved
Tokenizer = Saved
PLACE = (str, os.PathLike)
P = ParamSpec("P")
R = TypeVar("R")


def silent(line: str) -> None:
    """Says nothing: what a command prints on its way."""


def called(pipeline: ModuleType, kind: "type[DataclassInstance]") -> Callable[[Callable[P, R]], Callable[P, R]]:
    """The declared function runs `run_<its name>` of the pipeline on the configuration of what was given to it."""

    def declared(function: Callable[P, R]) -> Callable[P, R]:
        name = function.__name__

        @functools.wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            signature = inspect.signature(function)
            known = {key: value for key, value in kwargs.items() if key in signature.parameters}
            given = signature.bind_partial(*args, **known).arguments | kwargs  # what is unknown is refused by name
            say, tokenizer = given.pop("say", silent), given.pop("tokenizer", None)
            with put(given, kind, tokenizer) as plain:
                done: R = getattr(pipeline, f"run_{name}")(recipes.configuration(kind, plain), say)
            return done

        means = "".join(f"\n        {key}: {text}" for key, text in options.meanings(kind).items())
        call.__doc__ = f"{function.__doc__}\n    Keywords:{means}\n"
        return call

    return declared


@contextmanager
def put(
    settings: Mapping[str, object], kind: "type[DataclassInstance]", tokenizer: Tokenizer | None
) -> Iterator[dict[str, object]]:
    """The settings of a command, files in place of what is in memory. Raises `InputError`, naming keyword and row."""
    rows, models = fields_naming(kind, "rows"), fields_naming(kind, "model")
    for key in rows:
        _check_list(key, settings.get(key), several=kind.__dataclass_fields__[key].default == ())
    held = [key for key in (*rows, *models) if _in_memory(settings.get(key))]
    if tokenizer is not None and not set(held) & set(models):
        raise InputError("tokenizer: no loaded model is given. Leave it out: the folder of a model has its own.")
    if not held:
        yield dict(settings)
        return
    if launcher.processes() > 1:
        raise InputError(f"{held[0]}: what is in memory cannot be shared by several processes. Give a file or folder.")
    with workspace.given_folder(str(settings.get("output") or "")) as folder:
        given = {key: settings[key] for key in held}
        files = {key: _rows(folder, key, value) for key, value in given.items() if key in rows}
        folders = {key: _model(folder, key, value, tokenizer) for key, value in given.items() if key in models}
        yield {**settings, **files, **folders}


def _check_list(key: str, given: object, several: bool) -> None:
    """Raises `InputError` for an empty list, and one of files where there is one file."""
    if several or not isinstance(given, list | tuple) or any(isinstance(one, Mapping) for one in given):
        return
    raise InputError(
        f"{key}: {'no rows are in it' if not given else 'expected one file, or rows (dicts), found a list'}."
    )


def _in_memory(value: object) -> bool:
    if isinstance(value, list | tuple):
        return any(not isinstance(one, PLACE) for one in value)
    return value is not None and not isinstance(value, PLACE)


def _rows(folder: Path, key: str, given: object) -> str | list[str]:
    """One file of rows; of a keyword that takes several, such as `earlier`, a file each."""
    if isinstance(given, list | tuple) and not any(isinstance(one, Mapping) for one in given):
        parts = enumerate(given, start=1)
        return [os.fspath(one) if isinstance(one, PLACE) else _file(folder, f"{key}-{n}", one) for n, one in parts]
    return _file(folder, key, given)


def _file(folder: Path, key: str, rows: object) -> str:
    """The rows as JSON lines."""
    if hasattr(rows, "itertuples") and hasattr(rows, "to_dict"):  # a pandas DataFrame, which iterates over its columns
        rows = rows.to_dict(orient="records")
    if isinstance(rows, Mapping) or not isinstance(rows, Iterable):
        raise InputError(
            f"{key}: expected a file or rows (dicts), found {type(rows).__name__}. Of several splits, choose one."
        )
    file = folder / f"{key}.jsonl"
    with file.open("w", encoding="utf-8") as lines:
        for number, row in enumerate(rows, start=1):
            if not isinstance(row, Mapping):
                raise InputError(f"{key}: row {number} must be a dict, found {type(row).__name__}.")
            try:
                lines.write(json.dumps(dict(row), ensure_ascii=False, allow_nan=False) + "\n")
            except (TypeError, ValueError) as error:
                raise InputError(f"{key}: row {number} cannot be written as JSON ({first_line(error)}).") from None
    return str(file)


def _model(folder: Path, key: str, model: object, tokenizer: Tokenizer | None) -> str:
    """A folder with a loaded model and its tokenizer."""
    if not hasattr(model, "save_pretrained"):
        raise InputError(f"{key}: expected a folder, a hub name or a loaded model, found {type(model).__name__}.")
    if tokenizer is None:
        raise InputError(f"{key}: a loaded model needs its tokenizer: give tokenizer=... beside it.")
    place = folder / key
    model.save_pretrained(str(place))
    tokenizer.save_pretrained(str(place))
    return str(place)
