"""Hashes: plain ones of code and models, keyed ones of rows.

Hashes of rows and of row files are keyed (HMAC-SHA256): a plain hash of a short secret can be enumerated. The key lies
in the user's configuration folder with mode 0600 and never in a record.
"""

import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Sequence
from pathlib import Path

from expunge.errors import InputError


def key() -> bytes:
    """The user's key for row hashes, made on first use below XDG_CONFIG_HOME (or ~/.config), mode 0600."""
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "expunge"
    file = folder / "row-hash.key"
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as new:
            new.write(secrets.token_bytes(32))
    except FileExistsError:
        pass
    except OSError as error:
        raise InputError(f"{file}: the key for row hashes cannot be written ({error.strerror}).") from None
    if (mode := file.stat().st_mode & 0o777) & 0o077:
        raise InputError(
            f"{file}: others may read the key for row hashes (mode {mode:03o}). Run chmod 600 on it if they are to be "
            "trusted; else remove it, and take it that they can guess short rows from the ids in earlier records."
        )
    if len(secret := file.read_bytes()) != 32:
        raise InputError(f"{file}: not a key of 32 bytes. Remove it; ids in earlier records will not match new ones.")
    return secret


def keyed_hash(parts: Iterable[str], secret: bytes) -> str:
    """HMAC-SHA256 of texts, 16 hex digits."""
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()[:16]


def run_hash(words: Sequence[str], secret: bytes) -> str:
    """Keyed BLAKE2b of a few words in a row, 16 hex digits: as `keyed_hash`, in a fifth of its time."""
    text = "\0".join(words).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, key=secret, person=b"expunge run", digest_size=8).hexdigest()


def key_mark(secret: bytes) -> str:
    """Says which key made the hashes of a record, and nothing of the key."""
    return keyed_hash(["which key made these hashes"], secret)


def keyed_file_hash(path: Path, secret: bytes) -> str:
    """HMAC-SHA256 of a file of rows, or of all files below a folder with their names, 16 hex digits."""
    digest = hmac.new(secret, digestmod=hashlib.sha256)
    for file in sorted(one for one in path.rglob("*") if one.is_file()) if path.is_dir() else [path]:
        digest.update(keyed_hash([str(file.relative_to(path)), str(file.stat().st_size)], secret).encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def full_hash(file: Path) -> str:
    """SHA-256 of a file, all 64 hex digits."""
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def file_hash(files: Iterable[Path]) -> str:
    """SHA-256 over names and contents of files that hold no rows (weights, code), 16 hex digits."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as content:
            while block := content.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def code_hash() -> str:
    """Hash of this package's own source."""
    return file_hash(sorted(Path(__file__).parents[1].rglob("*.py")))
