"""What a field of a configuration or of an entry's options may hold, said at the field: bounds of numbers, and paths.

    learning_rate: Annotated[float, Above(0)] = 1e-5

Numbers are finite in any case. Nothing here is checked by itself: `config.options` does.
"""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, get_args, get_origin

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Named = Literal["rows", "model", "settings", "folder"]


class Bound(Protocol):
    """A bound of a number."""

    def holds(self, value: float) -> bool: ...

    @property
    def words(self) -> str:
        """As in "must be a number ..."."""
        ...


@dataclass(frozen=True, slots=True)
class Above:
    """Greater than a number."""

    least: float

    def holds(self, value: float) -> bool:
        return value > self.least

    @property
    def words(self) -> str:
        return f"above {self.least:g}"


@dataclass(frozen=True, slots=True)
class AtLeast:
    """A number or more."""

    least: float

    def holds(self, value: float) -> bool:
        return value >= self.least

    @property
    def words(self) -> str:
        return f"{self.least:g} or more"


@dataclass(frozen=True, slots=True)
class Between:
    """Strictly between two numbers."""

    low: float
    high: float

    def holds(self, value: float) -> bool:
        return self.low < value < self.high

    @property
    def words(self) -> str:
        return f"between {self.low:g} and {self.high:g}"


@dataclass(frozen=True, slots=True)
class Names:
    """The field names something on a disk (or a hub): files of rows, a model, a file of settings, any other folder."""

    what: Named


@dataclass(frozen=True, slots=True)
class Told:
    """The field holds a text, and what it stands for may be given in other forms: `text(value, source)` is the text of
    any of them, and raises `InputError` for what is none."""

    text: Callable[[Any, str], Any]


Positive = Annotated[float, Above(0)]
Count = Annotated[int, Above(0)]  # of things of which there must be one
Weight = Annotated[float, AtLeast(0)]


def parts(declared: object) -> tuple[object, tuple[object, ...]]:
    """A declared type without its annotations, and the annotations."""
    if get_origin(declared) is Annotated:
        inner, *notes = get_args(declared)
        deeper, more = parts(inner)
        return deeper, (*more, *notes)
    return declared, ()


def bounds_of(declared: object) -> list[Bound]:
    """The bounds of a declared type, its own and those of its alternatives (`Positive | None`)."""
    inner, notes = parts(declared)
    own = [note for note in notes if isinstance(note, Above | AtLeast | Between)]
    return own + [bound for one in get_args(inner) for bound in bounds_of(one)]


def fields_naming(kind: "type[DataclassInstance]", *what: Named) -> tuple[str, ...]:
    """The fields of a dataclass that name such things, in their order; all that name anything where nothing is said."""
    return tuple(
        field.name
        for field in dataclasses.fields(kind)
        if any(isinstance(note, Names) and (not what or note.what in what) for note in parts(field.type)[1])
    )
