"""Records on disk: finding, reading and writing them. What a record is: `reporting.record`."""

from collections.abc import Mapping
from pathlib import Path

from expunge.files import plain_json
from expunge.files.reading import check_name, read_json
from expunge.files.typed import Part, plain, taken
from expunge.reporting.record import REMEDY, Record, decoded

SEALED = "sealed.json"  # beside a record: which of its files went, or were written anew, when a request was closed
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


def read(path: str | Path) -> Record:
    """A record from its file or its output folder. Raises `InputError` for anything else."""
    check_name(str(path), "the path of the record")
    file = find(path)
    return decoded(read_json(file, "the record", REMEDY), str(file))


class Sealed(Part, frozen=True):
    """By name the files of a record that went when a request was closed ("": gone), or their new hashes."""

    files: Mapping[str, str]


def read_sealed(file: Path) -> Mapping[str, str]:
    """The files of a closed record that went or were written anew; of an open one, nothing. Raises `InputError`."""
    beside = file.with_name(SEALED)
    if not beside.is_file():
        return {}
    return taken(read_json(beside, "the note of what was sealed", REMEDY), Sealed, str(beside)).files


def write(file: Path, content: Record) -> None:
    """The record as a file."""
    plain_json.write_json(file, plain(content))
