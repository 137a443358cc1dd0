"""JSON that somebody else may have edited, as typed parts: one check for all of it, made from the classes.

A part is a frozen struct of msgspec, which refuses an unknown key as it does a missing one or another type (it lets
unknown keys of dataclasses pass).
"""

import re
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from expunge.errors import InputError
from expunge.files.reading import shown

EDITED = "Was it cut off or edited? Take the one that expunge wrote."


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """An object of JSON with these keys and no others."""


Kind = TypeVar("Kind")


def taken(content: object, kind: type[Kind], where: str, remedy: str = EDITED) -> Kind:
    """A part from parsed JSON. Raises `InputError` in one line: `where`, the JSON path in it, and the remedy."""
    try:
        return msgspec.convert(content, kind)
    except msgspec.ValidationError as error:
        raise InputError(f"{where}, at {_told(str(error))}. {remedy}") from None
    except (UnicodeEncodeError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else "half a character (a lone surrogate)"
        raise InputError(f"{where}: {what}. {remedy}") from None


def _told(message: str) -> str:
    """The place in the JSON and what is wrong there, without what stands there, which may be text of a row."""
    what, place = re.fullmatch(r"(.*?)(?: - at `(\$[\w.\[\]]*)`)?", message, re.DOTALL).groups()  # type: ignore[union-attr]
    if found := re.fullmatch(r"Object contains unknown field `(.*)`", what, re.DOTALL):
        what = f"an unknown key, {shown(found[1])}"
    elif what.startswith("Invalid enum value"):
        what = "none of the words that can stand there"
    return f"{place or '$'}: {what.replace('`', '')}"


def plain(part: Part) -> dict[str, object]:
    """A part as JSON has it, in the order of its fields; numbers in full. What is open may hold anything: arrays become
    lists, what JSON has no form for its text."""
    made: dict[str, Any] = msgspec.to_builtins(part, enc_hook=_simple)
    return made


def _simple(value: object) -> object:
    return value.tolist() if hasattr(value, "tolist") else str(value)
