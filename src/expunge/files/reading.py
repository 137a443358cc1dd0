"""Files that somebody else wrote: regular ones of bounded size, strict UTF-8, strict JSON.

Every message names the file, the line where there is one, and the remedy, and holds nothing of the content. A pipe, a
device or a folder is refused before it is opened, since reading one may never end.
"""

import gzip
import json
import math
import os
import re
import stat
import zlib
from pathlib import Path
from typing import NoReturn

from expunge.errors import InputError

MOST_BYTES = 4 << 30  # of a file of rows
MOST_SETTINGS = 256 << 20  # of a record or of a model's settings; the largest that were seen have 20 MiB
LONGEST_PATH, LONGEST_NAME = 4000, 255  # bytes; Linux allows a little more, and folders are put before a path
GZIP = ".gz"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
KINDS = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
NAME = re.compile(r"[a-z_]{1,20}")  # of a column or key; anything else may be text of a row


class NotJSON(ValueError):
    """Text that is not strict JSON: why, and on which line of the text (None: nowhere in particular)."""

    def __init__(self, why: str, line: int | None = None) -> None:
        super().__init__(f"not JSON ({why})")
        self.line = line


def check_regular(file: str | Path, what: str, most: int | None = MOST_BYTES) -> None:
    """Raises `InputError` for what is no regular file, or one of more than `most` bytes. `what`: for messages."""
    try:
        found = os.stat(file)
    except FileNotFoundError:
        raise InputError(f"{file}: {what} does not exist. Check the path.") from None
    except (OSError, ValueError) as error:
        raise unreadable(file, what, error) from None
    if not stat.S_ISREG(found.st_mode):
        kind = next((name for test, name in KINDS.items() if test(found.st_mode)), "a device")
        raise InputError(f"{file}: {what} cannot be read (it is {kind}). Name a regular file.")
    if most is not None and found.st_size > most:
        sizes = f"has {_size(found.st_size)}, and {_size(most)} is the most"
        raise InputError(f"{file}: {what} {sizes}. Name a smaller one.")


def check_name(path: str, where: str) -> None:
    """Raises `InputError` for a path that no file system here takes, on which every look at it would fail."""
    raw = path.encode("utf-8", "surrogatepass")
    if len(raw) > LONGEST_PATH or any(len(part) > LONGEST_NAME for part in raw.split(os.sep.encode())):
        raise InputError(f"{where} has {len(path):,} characters, too many for a path. Name another.")


def unreadable(file: str | Path, what: str, error: OSError | ValueError) -> InputError:
    """The error for a file that the system does not let us read."""
    reason = getattr(error, "strerror", None) or "not the name of a file"
    return InputError(f"{file}: {what} cannot be read ({reason}). Check the path and its permissions.")


def check_inside(file: Path, folder: Path, what: str) -> None:
    """Raises `InputError` where links lead a file that an artefact named out of the artefact's folder.

    The hub's cache is let through: its snapshots are links into the folder of blobs beside them.
    """
    real, homes = os.path.realpath(file), [os.path.realpath(folder)]
    if folder.absolute().parent.name == "snapshots":
        homes.append(os.path.realpath(folder.absolute().parents[1] / "blobs"))
    if not any(os.path.commonpath((real, home)) == home for home in homes):
        raise InputError(f"{file}: {what} is a link that leads out of its folder. Put a copy in the place of the link.")


def read_text(file: str | Path, what: str, most: int = MOST_BYTES) -> str:
    """UTF-8 text without a byte order mark. Raises `InputError` for anything else, with the line where it breaks.

    A file whose name ends in .gz is unpacked, up to `most` bytes.
    """
    check_regular(file, what, most)
    try:
        raw = _unpacked(Path(file), what, most) if str(file).lower().endswith(GZIP) else Path(file).read_bytes()
    except OSError as error:
        raise unreadable(file, what, error) from None
    raw = raw.removeprefix(BYTE_ORDER_MARK)
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(f"{file}, line {line}: not UTF-8. Save the file as UTF-8.") from None
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise InputError(f"{file}, line {line}: a NUL character, so this is no text. Save the file as UTF-8.")
    return text


def _unpacked(file: Path, what: str, most: int) -> bytes:
    try:
        with gzip.open(file) as packed:
            raw = packed.read(most + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error):
        raise InputError(f"{file}: {what} is not gzip, or is cut off. Pack it anew, or name it without .gz.") from None
    if len(raw) > most:
        raise InputError(f"{file}: {what} unpacks to more than {_size(most)}. Name a smaller one.")
    return raw


def read_json(file: str | Path, what: str, remedy: str, endless: bool = False) -> object:
    """Strict JSON of a file of settings or of a record. Raises `InputError`; its message ends with the remedy.

    `endless`: Infinity and NaN are numbers, as in the config.json of models with an open range.
    """
    try:
        return parse_json(read_text(file, what, MOST_SETTINGS), ENDLESS if endless else DECODER)
    except NotJSON as error:
        where = f"{file}, line {error.line}" if error.line else str(file)
        raise InputError(f"{where}: {what} is {error}. {remedy}") from None


def parse_json(text: str, decoder: json.JSONDecoder | None = None) -> object:
    """JSON in which no key stands twice and, by the usual decoder, all numbers are finite. Raises `NotJSON`."""
    try:
        return (decoder or DECODER).decode(text)
    except json.JSONDecodeError as error:
        raise NotJSON(f"character {error.colno}", error.lineno) from None
    except RecursionError:
        raise NotJSON("nested too deeply", _line_of_element(text)) from None
    except NotJSON as error:
        error.line = _line_of_element(text)
        raise
    except ValueError:  # of an integer with over 4300 digits
        raise NotJSON("a number with too many digits", _line_of_element(text)) from None


def shown(name: str) -> str:
    """A column's or key's name for a message, unless it may be text of a row (a CSV without a header)."""
    return repr(name) if NAME.fullmatch(name) else "(not a name)"


def _line_of_element(text: str) -> int | None:
    """Where the element of an array begins that cannot be read; None where the text is no array."""
    start = re.match(r"\s*\[", text)
    place = start.end() if start else len(text)
    while place < len(text):
        place += len(re.compile(r"[\s,]*").match(text, place)[0])  # type: ignore[index]  # matches nothing too
        try:
            _, place = DECODER.raw_decode(text, place)
        except (ValueError, RecursionError):
            return text.count("\n", 0, place) + 1
    return None


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise NotJSON(f"the key {shown(twice)} stands twice in one object")
    return found


def _no_number(name: str) -> NoReturn:
    raise NotJSON(f"{name} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise NotJSON("a number too large for any computer")
    return value


DECODER = json.JSONDecoder(object_pairs_hook=_distinct, parse_constant=_no_number, parse_float=_finite)
ENDLESS = json.JSONDecoder(object_pairs_hook=_distinct)


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"
