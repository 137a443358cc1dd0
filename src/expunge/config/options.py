"""Dataclasses from plain values, with types and bounds checked."""

import contextlib
import dataclasses
import math
import reprlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args, get_origin

from expunge import registry
from expunge.config.commands import PATHS
from expunge.errors import InputError
from expunge.files import reading

LARGEST = 2**63 - 1  # what a seed may be
ABOVE_ZERO = """
    learning_rate epochs steps tokens forget_rows batch_rows batch_tokens replay_tokens beta width
    damping absolute_damping budget step_size cycles refresh_every passes gradients block
""".split()


def build(kind: type[Any], values: Mapping[str, Any], source: str) -> Any:
    """A dataclass from plain values, with types checked. Raises `InputError` that names the key."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    values = {key: _meant(value, fields[key].type) if key in fields else value for key, value in values.items()}
    for key, value in values.items():
        if key not in fields:
            raise InputError(f"{source}: unknown key {reprlib.repr(key)}{registry.suggestion(str(key), list(fields))}")
        _check_type(key, value, fields[key].type, source)
    return kind(**values)


def _meant(value: Any, declared: Any) -> Any:
    """`1e-5`, which YAML 1.1 takes for text, as the number it means, and a list as a tuple."""
    if float in (declared, *get_args(declared)) and isinstance(value, str):
        with contextlib.suppress(ValueError):
            return float(value)
    if get_origin(declared) is tuple and isinstance(value, list):
        return tuple(value)
    return value


def _check_type(key: str, value: Any, declared: Any, source: str) -> None:
    if get_origin(declared) is Annotated:
        declared = get_args(declared)[0]
    allowed = get_args(declared)
    if get_origin(declared) is Literal:
        if value not in allowed:
            choice = ", ".join(map(str, allowed))
            raise InputError(f"{source}: {key} must be one of {choice}, found {reprlib.repr(value)}.")
        return
    if declared is Any or any(get_origin(one) is Literal and value in get_args(one) for one in allowed):
        return
    if get_origin(declared) is tuple:
        if not isinstance(value, tuple):
            raise InputError(f"{source}: {key} must be a list, found {type(value).__name__}.")
        for one in value:
            _check_type(key, one, allowed[0], source)
        return
    types = [one for one in (allowed or (declared,)) if isinstance(one, type)]
    whole_for_float = float in types and isinstance(value, int)
    is_bool = isinstance(value, bool)
    if (is_bool and bool not in types) or not (isinstance(value, tuple(types)) or whole_for_float):
        names = " or ".join("nothing" if one is type(None) else one.__name__ for one in types)
        raise InputError(f"{source}: {key} must be {names}, found {type(value).__name__}.")
    _check_number(key, value, source)


def _check_number(key: str, value: Any, source: str) -> None:
    if not isinstance(value, int | float):
        return
    if isinstance(value, int) and abs(value) > LARGEST:
        raise InputError(f"{source}: {key} is a number of over 63 bits. Give a smaller one.")
    above = key in ABOVE_ZERO
    if not (math.isfinite(value) and (value > 0 if above else value >= 0)):
        raise InputError(f"{source}: {key} must be a number {'above 0' if above else '0 or more'}, found {value}.")


def check_values(config: Any) -> None:
    """Numbers and paths of a configuration and of its method's options. Raises `InputError`, naming the flag."""
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            check_values(value)
        if field.name in (*PATHS, "data", "record") and isinstance(value, str):
            reading.check_name(value, f"given: {field.name}")
        for one in value if isinstance(value, tuple) else (value,):
            _check_number(field.name, one, "given")
