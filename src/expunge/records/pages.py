"""The pages of a record that is there already: no model is loaded, and torch is not imported."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import TemplateError

from expunge.errors import InputError
from expunge.records import record, replacing
from expunge.reporting import html, markdown
from expunge.runs import outputs

ODD = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError, TemplateError)


def report(record_path: str | Path, output: str | Path, *, overwrite: bool = False) -> Path:
    """Writes report.html and report.md of a record to a folder; returns the page. Raises `InputError`.

    `overwrite`: pages that were written there before are replaced.
    """
    content = record.read(record_path)
    target = replacing.checked(output, overwrite, {"the record": str(record.find(record_path))})
    with outputs.whole_folder(target, replaces=overwrite) as folder, foreign(record_path):
        write_pages(folder, content, None)
    return target / "report.html"


def write_pages(folder: Path, content: Mapping[str, Any], texts: Any) -> None:
    """report.html and report.md from a record; row text only where `texts` are given."""
    (folder / "report.html").write_text(html.render(content, texts), encoding="utf-8")
    (folder / "report.md").write_text(markdown.render(content, texts), encoding="utf-8")


@contextmanager
def foreign(path: str | Path) -> Iterator[None]:
    """Turns what goes wrong with a record that this run did not write into an `InputError` that names it.

    Its entries may be of any type, and each page takes them apart in its own way; our own records get no such net.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except ODD as error:
        what = f"its entries are not those of a record ({type(error).__name__})"
        raise InputError(f"{path}: {what}. Was it edited? Take the one that the run wrote.") from error
