"""What a run leaves on disk: config, hashes, versions, seeds, timings, scores, with a schema version.

The form is that of `record.schema.json`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from expunge.config import commands
from expunge.config.bounds import fields_naming
from expunge.errors import InputError
from expunge.files.reading import check_name, read_json

SCHEMA = 2
SEALED = "sealed.json"  # beside a record: which of its files went, or were written anew, when a request was closed
TEXTS = (*commands.ROWS, *commands.MODELS, *fields_naming(commands.Retrain, "settings", "folder"), "curvature")
REMEDY = "Name a record.json, or the output folder of a run; a newer or older expunge may write another schema."
LIMITS = (
    "A rank among never-seen rows shows that a row is no more familiar than they are; it cannot show that nothing of "
    "it is left in the weights.",
    "What was trained in but stands in none of the files is seen only through the model's own samples.",
    "The original model, its checkpoints, caches and the files given still hold the rows.",
)


def find(path: str | Path) -> Path:
    """The file of a record: the path itself, or where it lies in an output folder."""
    file = Path(path)
    if file.is_dir():
        inner = file / "expunge" / "record.json"
        return inner if inner.is_file() else file / "record.json"
    return file


def read(path: str | Path) -> dict[str, Any]:
    """A record from its file or its output folder. Raises `InputError` for anything else."""
    check_name(str(path), "the path of the record")
    file = find(path)
    content = read_json(file, "the record", REMEDY)
    schema = content.get("schema") if isinstance(content, dict) else None
    if type(schema) is not int or schema != SCHEMA:
        raise InputError(f"{file}: not a record of schema {SCHEMA}. {REMEDY}")
    return dict(content)


def read_whole(path: str | Path) -> dict[str, Any]:
    """A record whose parts that other runs build on have the form of the schema. Raises `InputError`."""
    content = read(path)
    if broken := [name for name, holds in _FORMS.items() if not holds(content.get(name))]:
        raise InputError(f"{find(path)}: the record's {', '.join(broken)} cannot be read. Was it cut off or edited?")
    return content


def read_sealed(file: Path) -> dict[str, str]:
    """By name the files of a record that went when a request was closed ("": gone), or their new hashes; of an open
    one, nothing. Raises `InputError`."""
    beside = file.with_name(SEALED)
    if not beside.is_file():
        return {}
    content = read_json(beside, "the note of what was sealed", REMEDY)
    found = content.get("files") if isinstance(content, dict) else None
    if not isinstance(found, dict) or not _mapping(found):
        raise InputError(f"{beside}: not what sealing wrote. Was it edited? {REMEDY}")
    return dict(found or {})


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def _mapping(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(one, str) for one in value.values())


def _judged(value: Any) -> bool:
    return isinstance(value, list) and all(map(_judged_row, value))


def _judged_row(row: Any) -> bool:
    if not isinstance(row, dict) or not isinstance(row.get("loss"), dict):
        return False
    numbers = all(loss is None or type(loss) in (int, float) for loss in row["loss"].values())
    return numbers and isinstance(row.get("id"), str) and isinstance(row.get("verdict"), str)


def _paths(value: Any) -> bool:
    """The configuration: every setting that names a file or a folder is text, or a list of texts."""
    return (
        isinstance(value, dict)
        and all(isinstance(value.get(name, ""), str) for name in ("benchmark", *TEXTS))
        and _texts(value.get(commands.EARLIER, []))
    )


_FORMS: dict[str, Callable[[Any], bool]] = {
    "created": lambda value: isinstance(value, str),
    "rows": _judged,
    "earlier": lambda value: value is None or (isinstance(value, dict) and _judged(value.get("rows"))),
    "config": _paths,
    "key": lambda value: isinstance(value, str),
    "hashes": _mapping,
    "versions": _mapping,
    "row_files": _mapping,
    "holders": lambda value: (
        isinstance(value, list) and all(_mapping(one) and {"what", "where"} <= one.keys() for one in value)
    ),
    "files": lambda value: (
        isinstance(value, dict) and all(isinstance(one, dict) and "sha256" in one for one in value.values())
    ),
    "parent": lambda value: (
        value is None
        or (
            isinstance(value, dict) and _texts(value.get("served")) and _texts([value.get("path"), value.get("record")])
        )
    ),
}
