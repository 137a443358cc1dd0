"""The pages of a record that is there already: no model is loaded, and torch is not imported."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from expunge.errors import InputError
from expunge.records import overwritable, record
from expunge.reporting import html, markdown
from expunge.reporting.record import Record, Texts
from expunge.runs import outputs

ODD = (ArithmeticError, RecursionError, ValueError)


def report(record_path: str | Path, output: str | Path, *, overwrite: bool = False) -> Path:
    """Writes report.html and report.md of a record to a folder; returns the page. Raises `InputError`.

    `overwrite`: pages that were written there before are replaced.
    """
    content = record.read(record_path)
    target = overwritable.checked(output, overwrite, {"the record": str(record.find(record_path))})
    with outputs.whole_folder(target, replaces=overwrite) as folder, foreign(record_path):
        write_pages(folder, content, None)
    return target / "report.html"


def write_pages(folder: Path, content: Record, texts: Texts | None) -> None:
    """report.html and report.md from a record; row text only where `texts` are given."""
    (folder / "report.html").write_text(html.render(content, texts), encoding="utf-8")
    (folder / "report.md").write_text(markdown.render(content, texts), encoding="utf-8")


@contextmanager
def foreign(path: str | Path) -> Iterator[None]:
    """Turns what goes wrong with a record that this run did not write into an `InputError` that names it.

    Its form is right, but a number may be larger than a drawing can hold; our own records get no such net.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except ODD as error:
        what = f"it holds numbers or nesting that no page can show ({type(error).__name__})"
        raise InputError(f"{path}: {what}. Was it edited? Take the one that the run wrote.") from error
