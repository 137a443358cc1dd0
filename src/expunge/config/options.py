"""Dataclasses from plain values, with types and bounds checked. What a field may hold is said at the field."""

import ast
import contextlib
import dataclasses
import inspect
import itertools
import math
import os
import reprlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeVar, get_args, get_origin

from expunge import registry
from expunge.config.bounds import Told, bounds_of, fields_naming, parts
from expunge.errors import InputError, kind_of
from expunge.files import reading

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Kind = TypeVar("Kind", bound="DataclassInstance")
LARGEST = 2**63 - 1  # what a seed may be


def build(kind: type[Kind], values: Mapping[str, object], source: str) -> Kind:
    """A dataclass from plain values, with types checked. Raises `InputError` that names the key."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = {key: _meant(value, fields[key].type, source) if key in fields else value for key, value in values.items()}
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"{source}: unknown key {reprlib.repr(key)}{registry.suggestion(str(key), list(fields))}")
        _check_type(key, value, fields[key].type, source)
    return kind(**values)


def meanings(kind: type[object]) -> dict[str, str]:
    """What each field of a dataclass means: the text under it, in one line. Python does not keep those."""
    found: dict[str, str] = {}
    for one in reversed([part for part in kind.__mro__ if dataclasses.is_dataclass(part)]):
        (declared,) = ast.parse(inspect.getsource(one)).body
        assert isinstance(declared, ast.ClassDef)
        found |= described(declared)
    return found


def described(declared: ast.ClassDef) -> dict[str, str]:
    """The texts under the fields of a class."""
    found = {}
    for node, after in itertools.pairwise(declared.body):
        is_text = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and is_text:
            found[node.target.id] = " ".join(str(after.value.value).split())  # type: ignore[attr-defined]
    return found


def check_values(config: "DataclassInstance") -> None:
    """Numbers and paths of a configuration and of its method's options. Raises `InputError`, naming the flag."""
    named = fields_naming(type(config))
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            check_values(value)
        for one in value if isinstance(value, tuple) else (value,):
            if field.name in named and isinstance(one, str):
                reading.check_name(one, f"given: {field.name}")
            _check_number(field.name, one, field.type, "given")
            _meant(one, field.type, "given")


def _meant(value: object, declared: object, source: str) -> object:
    """`1e-5`, which YAML 1.1 takes for text, as the number it means; a list as a tuple, a path as its text."""
    inner, notes = parts(declared)
    for note in notes:
        if isinstance(note, Told):
            return note.text(value, source)
    kinds = [parts(one)[0] for one in (inner, *get_args(inner))]
    if float in kinds and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    if get_origin(inner) is tuple and isinstance(value, list | tuple):
        return tuple(_meant(one, get_args(inner)[0], source) for one in value)
    if str in kinds and isinstance(value, os.PathLike):
        return os.fspath(value)
    return value


def _check_type(key: str, value: object, declared: object, source: str) -> None:
    inner, _ = parts(declared)
    allowed = get_args(inner)
    if get_origin(inner) is Literal:
        if value not in allowed:
            choice = ", ".join(map(str, allowed))
            raise InputError(f"{source}: {key} must be one of {choice}, found {reprlib.repr(value)}.")
        return
    if inner is Any or any(get_origin(one) is Literal and value in get_args(one) for one in allowed):
        return
    if get_origin(inner) is tuple:
        if not isinstance(value, tuple):
            raise InputError(f"{source}: {key} must be a list, found {kind_of(value)}.")
        for one in value:
            _check_type(key, one, allowed[0], source)
        return
    types = [one for one in (parts(one)[0] for one in (allowed or (inner,))) if isinstance(one, type)]
    whole_for_float = float in types and isinstance(value, int)
    is_bool = isinstance(value, bool)
    if (is_bool and bool not in types) or not (isinstance(value, tuple(types)) or whole_for_float):
        names = " or ".join("nothing" if one is type(None) else one.__name__ for one in types)
        raise InputError(f"{source}: {key} must be {names}, found {kind_of(value)}.")
    _check_number(key, value, declared, source)


def _check_number(key: str, value: object, declared: object, source: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if isinstance(value, int) and abs(value) > LARGEST:
        raise InputError(f"{source}: {key} is a number of over 63 bits. Give a smaller one.")
    for bound in bounds_of(declared):
        if not (math.isfinite(value) and bound.holds(value)):
            raise InputError(f"{source}: {key} must be a number {bound.words}, found {value}.")
    if not math.isfinite(value):
        raise InputError(f"{source}: {key} must be a finite number, found {value}.")
