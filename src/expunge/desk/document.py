"""`expunge document`: the two pages of a request, as HTML and, where weasyprint is installed, as PDF."""

from collections.abc import Callable, Iterator
from pathlib import Path

from expunge.config.desk import Document
from expunge.desk.seal import holders, request_of
from expunge.errors import InputError
from expunge.files import whole
from expunge.records import ledger, overwritable, pages, record
from expunge.records.ledger import Ledger, Request
from expunge.reporting import document
from expunge.reporting.entries import Sealed
from expunge.reporting.record import Record
from expunge.runs import outputs

PAGE, PRINTED = "document.html", "document.pdf"
HOW = 'no PDF: pip install "expunge[document]" makes it, or print document.html from a browser (A4, no scaling)'
Say = Callable[[str], None]


def run(config: Document, say: Say) -> Path:
    """Writes the pages into a new folder and returns it. Raises `InputError`."""
    given = {"the run": config.run} | ({"the ledger": config.ledger} if config.ledger else {})
    output = overwritable.checked(config.output, config.overwrite, given)
    content = record.read(config.run)
    if not (place := config.ledger or content.setting("ledger")):
        raise InputError(f"{config.run}: this run was entered in no ledger. Name the one of its request with --ledger.")
    known = ledger.read(place)
    request = request_of(known, config.run)
    with pages.foreign(config.run):
        page = document.render(content, described(known, request, content))
    with outputs.whole_folder(output, private=True, replaces=config.overwrite) as made:
        whole.write_whole(made / PAGE, page.encode())
        printed = _pdf(page, made / PRINTED)
    say(f"document: {output / (PRINTED if printed else PAGE)}")
    if not printed:
        say(HOW)
    return output


def described(known: Ledger, request: Request, content: Record) -> document.Asked:
    """A request as the page takes it."""
    sealed = next(iter(request.of(Sealed)), None)
    assert request.run is not None
    return document.Asked(
        id=request.id,
        state=request.state,
        opened=request.opened,
        run=request.run,
        sealed=sealed,
        others=tuple(_others(known, request)),
        copies=sealed.elsewhere if sealed else holders(content, request),
        limits=tuple(one for one in content.limits if one != record.LIMITS[-1]),  # that is what "copies" says
    )


def _others(known: Ledger, request: Request) -> Iterator[str]:
    """Other requests, and what this run found of their rows."""
    again = request.run.again if request.run else {}
    for other in known.requests.values():
        if other.id != request.id:
            found = f"; by this run: {again[other.id]}" if other.id in again else ""
            yield f"{other.id}: {other.state}, {len(other.ids)} rows, entered on {other.opened.date[:10]}{found}"


def _pdf(page: str, file: Path) -> bool:
    """Prints the page, and says whether it could: weasyprint needs a library of the system (Pango)."""
    try:
        import weasyprint
    except (ImportError, OSError):
        return False
    file.write_bytes(weasyprint.HTML(string=page).write_pdf())
    return True
