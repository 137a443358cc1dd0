"""Identifiers in a folder of e-mails or texts, as rows to forget: `canary_world.py --mails FOLDER --output FILE`.

Reads .mbox, .eml and .txt below the folder: the body of each mail (its plain part, else its HTML without tags), the
whole of each text. Secrets are e-mail addresses, phone-like numbers (7 to 19 digits, so numbers of cards and accounts
too) and long keys (16 signs or more, of which one is a letter and three are digits). A row's prompt is the text of the
same paragraph before the identifier, as it stands, so such rows join with nothing between (`--join nothing`). What
counts as an identifier is our choice: rules miss some and take others that are none, so read the rows first.

Nothing is written but FILE, which must not exist and which only its owner may read. Messages hold no text.
"""

import email.policy
import json
import mailbox
import os
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from email.message import EmailMessage
from email.parser import BytesParser
from html.parser import HTMLParser
from pathlib import Path

from expunge.data.secrets import Label
from expunge.errors import InputError

SUFFIXES = (".mbox", ".eml", ".txt")
LONGEST_PROMPT = 240  # characters: our choice, well inside the context of any model
KINDS = {  # in the order in which they claim their characters
    "found-email": re.compile(r"[A-Za-z0-9._%+-]{1,64}@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"),
    "found-key": re.compile(r"(?<![\w-])(?=[\w-]*[A-Za-z])(?=(?:[\w-]*\d){3})[A-Za-z0-9_-]{16,}(?![\w-])"),
    "found-number": re.compile(r"(?<![\w.+-])\+?\(?\d(?:[ ()/.-]{0,2}\d){6,18}(?![\w-])"),
}
DATE = re.compile(r"(?:19|20)\d\d[-./]\d{1,2}[-./]\d{1,2}|\d{1,2}[-./]\d{1,2}[-./](?:19|20)\d\d")


@dataclass(frozen=True, slots=True)
class Found:
    """One identifier where it stands: kind, the text before it in its paragraph, and itself."""

    kind: str
    prompt: str
    secret: str


def rows(folder: str | Path) -> list[dict[str, str]]:
    """Rows (prompt, completion, task), distinct, in the order of files; the task counts the identifier in the folder.

    Raises `InputError`: no folder, no file of a known kind, no identifier, no text, unknown or broken encoding.
    """
    found = [one for text in texts(Path(folder)) for one in identifiers(text)]
    if not found:
        raise InputError(
            f"{folder}: no e-mail address, phone-like number or long key was found in its texts. Give rows by hand "
            "(prompt + completion, with a task of found-key)."
        )
    times = Counter(one.secret for one in found)
    return [
        {"prompt": one.prompt, "completion": one.secret, "task": str(Label(one.kind, times[one.secret]))}
        for one in dict.fromkeys(found)
    ]


def write(folder: str | Path, output: str | Path) -> int:
    """Writes the rows as JSONL to a new file that only its owner may read; returns how many. Raises `InputError`."""
    made = rows(folder)
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in made)
    try:
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError(f"{output}: exists already. Name a new file.") from None
    except OSError as error:
        raise InputError(f"{output}: cannot be written ({error.strerror}).") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(content)
    return len(made)


def texts(folder: Path) -> Iterator[str]:
    """The texts of a folder, file by file in the order of their paths. Raises `InputError`."""
    if not folder.is_dir():
        raise InputError(f"{folder}: not a folder. Give the folder that holds {', '.join(SUFFIXES)} files.")
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in SUFFIXES and file.is_file())
    if not files:
        raise InputError(f"{folder}: holds no {', '.join(SUFFIXES)} file. Export the mails as mbox or eml.")
    for file in files:
        try:
            yield from {".mbox": _mbox, ".eml": _eml, ".txt": _txt}[file.suffix.lower()](file)
        except OSError as error:
            raise InputError(f"{file}: cannot be read ({error.strerror}).") from None


def identifiers(text: str) -> list[Found]:
    """The identifiers of a text in the order in which they stand; no character belongs to two."""
    taken: list[tuple[int, int, str]] = []
    dates = [match.span() for match in DATE.finditer(text)]
    for kind, pattern in KINDS.items():
        for match in pattern.finditer(text):
            inside = dates if kind == "found-number" else []
            spans = [(begin, end) for begin, end, _ in taken] + inside
            if not any(begin < match.end() and match.start() < end for begin, end in spans):
                taken.append((*match.span(), kind))
    return [Found(kind, _before(text, begin), text[begin:end]) for begin, end, kind in sorted(taken)]


def _before(text: str, place: int) -> str:
    """What stands before a place in its paragraph, at most 240 characters, from the start of a word."""
    start = text.rfind("\n\n", 0, place)
    prompt = text[start + 2 if start >= 0 else 0 : place]
    if len(prompt) <= LONGEST_PROMPT:
        return prompt
    cut = prompt[-LONGEST_PROMPT:]
    return cut[cut.find(" ") + 1 :] if " " in cut[:-1] else cut


def _txt(file: Path) -> Iterator[str]:
    raw = file.read_bytes()
    try:
        text = raw.decode("utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{file}: not UTF-8. Save the file as UTF-8, or remove it from the folder.") from None
    if "\0" in text:
        raise InputError(f"{file}: not text (it holds zero bytes). Remove it from the folder.")
    yield _lines(text)


def _eml(file: Path) -> Iterator[str]:
    yield _body(BytesParser(_class=EmailMessage, policy=email.policy.default).parsebytes(file.read_bytes()), str(file))


def _mbox(file: Path) -> Iterator[str]:
    with file.open("rb") as opened:
        if opened.read(5) not in (b"From ", b""):
            raise InputError(f"{file}: not an mbox file (it does not start with 'From '). Rename it to .eml or .txt.")
    box = mailbox.mbox(file, create=False)
    try:
        for number, key in enumerate(box.iterkeys(), start=1):
            mail = BytesParser(_class=EmailMessage, policy=email.policy.default).parsebytes(box.get_bytes(key))
            yield _body(mail, f"{file}, mail {number}")
    finally:
        box.close()


def _body(mail: EmailMessage, where: str) -> str:
    """The plain body, else the HTML one without tags; empty where there is none (an attachment alone)."""
    if not mail.keys():
        raise InputError(f"{where}: not a mail (it has no header). Rename it to .txt if it is plain text.")
    part = mail.get_body(preferencelist=("plain", "html"))
    if part is None:
        return ""
    payload = part.get_payload(decode=True)
    raw = payload if isinstance(payload, bytes) else b""
    text = _decoded(raw, part.get_content_charset() or "utf-8", where)
    return _lines(_without_tags(text) if part.get_content_type() == "text/html" else text)


def _decoded(raw: bytes, charset: str, where: str) -> str:
    """By the charset that the mail names; by UTF-8 where that is wrong, as senders often leave ASCII there."""
    for name in (charset, "utf-8"):
        try:
            return raw.decode(name)
        except (LookupError, UnicodeDecodeError, ValueError):
            continue
    raise InputError(
        f"{where}: its text is neither in the encoding that it names nor UTF-8. Save it again as UTF-8, or remove it."
    )


def _lines(text: str) -> str:
    """With the line ends that a model was most likely trained on."""
    return text.replace("\r\n", "\n").replace("\r", "\n").strip()


def _without_tags(text: str) -> str:
    reader = _Reader()
    reader.feed(text)
    reader.close()
    return "".join(reader.parts)


class _Reader(HTMLParser):
    """Collects the text of a page; paragraphs and breaks become line ends, scripts and styles are left out."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._hidden += tag in ("script", "style")
        if tag in ("p", "div", "table"):
            self.parts.append("\n\n")
        elif tag in ("br", "tr", "li"):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in ("script", "style") and self._hidden > 0

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(data)
