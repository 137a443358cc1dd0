"""`expunge seal`: closes a request. What holds the rows under our control goes; what cannot be reached is listed.

Gone afterwards: working folders of interrupted runs (checkpoints, evidence with text), cached twins, cells and evidence
with the original's distributions, the evidence in the run's own folder, and row text on its pages; on request also the
stored curvature (--remove-curvature), the original (--remove-original) and the rows to forget themselves
(--remove-rows), after which nothing can be judged again. Without the original there is no way back.

The ledger is told before anything goes, with the list, and again when all of it is gone and was looked for. In between
the request is *sealing*: the same command goes on with that list. Where something stays, the request is not sealed.
Beside the record, `sealed.json` says which of its files went or were written anew, so that it can still be verified.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from expunge.config.desk import Seal
from expunge.desk import decisions
from expunge.desk.select import FORGET, REQUEST
from expunge.errors import InputError
from expunge.files import hashing, plain_json, whole
from expunge.records import ledger, record
from expunge.records.ledger import Ledger, Request
from expunge.records.overwritable import MODEL
from expunge.reporting import entries, html, markdown
from expunge.reporting.entries import Copy, Going, Ran
from expunge.reporting.record import Record
from expunge.runs import purge, workspace
from expunge.runs.purge import Left

SEALED = record.SEALED
PAGES = {"report.html": html.render, "report.md": markdown.render}
CURVATURE = "curvature.json"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Sealing:
    """The request, what is to go and what cannot be reached; `left`: what is still there at the end."""

    request: Request
    going: tuple[Left, ...]
    elsewhere: tuple[Copy, ...]
    left: tuple[Path, ...] = ()

    @property
    def done(self) -> bool:
        return not self.left


def run(config: Seal, say: Say, agreed: Callable[[], bool]) -> Sealing:
    """Seals, or goes on where an interrupted sealing was. Raises `InputError`."""
    content = record.read(config.run)
    with ledger.held(config.ledger, f"seal {config.run}") as (known, before):
        if before:
            say(before)
        request = request_of(known, config.run)
        if request.state == "sealed":
            raise InputError(f"{config.ledger}: request {request.id} is sealed already. There is nothing left to do.")
        if request.state == "open" and not config.despite_verdict:
            raise InputError(
                f"{config.run}: the verdict does not pass, so request {request.id} is open and not to be closed. "
                "--despite-verdict seals it all the same, and its document says so."
            )
        going = _going(config, content, request)
        planned = Sealing(request, going, tuple(_elsewhere(content, request, going)))
        for line in lines(planned):
            say(line)
        if not config.yes and not agreed():
            say("nothing was removed")
            return Sealing(request, going, planned.elsewhere, tuple(one.path for one in going))
        if not request.of(entries.Sealing) or set(_paths(_listed(going))) - set(_paths(_begun(request))):
            known = known.with_entry(entries.Sealing(request=request.id, date=ledger.now(), remove=_listed(going)))
        return _sealed(config, content, known, planned, say)


def request_of(known: Ledger, run: str) -> Request:
    """The request that a run served. Raises `InputError` where there is none, or another run served it since."""
    own = hashing.full_hash(record.find(run))
    found = next((one for one in known.requests.values() if any(run.record == own for run in one.of(Ran))), None)
    if found is None:
        raise InputError(f"{run}: no request of {known.folder} was served by this run. Name its folder, or its ledger.")
    assert found.run
    if found.run.record != own:
        raise InputError(f"{run}: request {found.id} was served by another run, {found.run.path}. Name that one.")
    return found


def lines(planned: Sealing) -> Iterator[str]:
    """What will go and what cannot be reached."""
    for one in planned.going:
        yield f"to go: {one.path} ({one.what})"
    for other in planned.elsewhere:
        yield f"not reached: {other.where} ({other.what})"


def _sealed(config: Seal, content: Record, known: Ledger, planned: Sealing, say: Say) -> Sealing:
    _note(record.find(config.run), content)
    for one in planned.going:
        purge.remove([one])
        if one.path.parent.is_dir():
            whole.flush(one.path.parent)
    left = tuple(one.path for one in planned.going if os.path.lexists(one.path))
    for path in left:
        say(f"still there: {path}")
    if left:
        say(f"request {planned.request.id} is not sealed: remove what is still there, then give the same command again")
        return Sealing(planned.request, planned.going, planned.elsewhere, left)
    request = known.requests[planned.request.id]
    removed = tuple({one.path: one for one in _begun(request)}.values())
    forced = not any(one.passes for one in request.of(Ran))
    given, date = planned.elsewhere, ledger.now()
    known = known.with_entry(
        entries.Sealed(request=request.id, date=date, removed=removed, elsewhere=given, forced=forced)
    )
    say(f"request {request.id} is sealed")
    return Sealing(known.requests[request.id], planned.going, planned.elsewhere)


def _note(file: Path, content: Record) -> None:
    """Writes what a later look at the record must know, and the pages anew where they show rows."""
    gone = {name: "" for name in content.files if "evidence" in Path(name).parts[:-1]}
    pages = {}
    if content.config.get("show_rows"):
        for name, render in PAGES.items():
            pages[name] = render(content, None)
            whole.write_whole(file.with_name(name), pages[name].encode(), 0o644)
    prefix = f"{file.parent.name}/" if file.parent.name == "expunge" else ""
    anew = {prefix + name: hashing.full_hash(file.with_name(name)) for name in pages}
    text = plain_json.as_text({"files": gone | anew})
    whole.write_whole(file.with_name(SEALED), text.encode(), 0o644)


def _going(config: Seal, content: Record, request: Request) -> tuple[Left, ...]:
    """What is to go now: of an interrupted sealing also what that was to remove."""
    folder = record.find(config.run).parent
    found = [*purge.rows_left(), Left(folder / "evidence", "evidence of this run, in numbers")]
    found += _curvature(content) if config.remove_curvature else []
    found += _original(config, content) if config.remove_original else []
    found += _rows(content) if config.remove_rows else []
    found += [Left(Path(one.path), one.what) for one in _begun(request)]
    return tuple({one.path: one for one in found if os.path.lexists(one.path)}.values())


def _curvature(content: Record) -> list[Left]:
    path = content.setting("curvature")
    if not path:
        raise InputError(
            "--remove-curvature: this run was given no stored curvature, so there is none to remove. Leave it out."
        )
    return (
        [Left(_whole_folder(path, "--remove-curvature", (CURVATURE,)), "stored curvature")]
        if Path(path).exists()
        else []
    )


def _original(config: Seal, content: Record) -> list[Left]:
    given = content.setting("model")
    if not given or not (path := Path(given)).exists():
        return []
    if content.save and content.save.base == str(path):
        raise InputError(
            f"--remove-original: {config.run} is an adapter that stands on {path}. Leave it out, or merge first."
        )
    if path.is_file() and path.suffix == ".gguf":
        return [Left(path, "the original model"), *_opened(path)]
    return [Left(_whole_folder(str(path), "--remove-original", MODEL, config.run, config.ledger), "the original model")]


def _opened(file: Path) -> list[Left]:
    """A model in one file as it was opened for runs."""
    found = sorted(workspace.cache_folder().glob(f"gguf-{file.stem}-*"))
    return [Left(path, "the original model as it was opened") for path in found]


def _rows(content: Record) -> list[Left]:
    """The file of rows to forget and, where a selection wrote it, the decisions, which may hold text."""
    file = Path(content.setting("forget") or "")
    if not file.is_file():
        return []
    found = [Left(file, "the rows to forget")]
    if file.name == FORGET and file.with_name(REQUEST).is_file():
        found.append(Left(file.with_name(decisions.NAME), "decisions on rows"))
    return found


def _whole_folder(path: str, flag: str, signs: Sequence[str], *inside: str) -> Path:
    """A folder that may go as a whole. Raises `InputError` for a link, for another folder, and for one that holds what
    must stay."""
    folder = Path(path)
    if folder.is_symlink() or not any((folder / name).is_file() for name in signs):
        raise InputError(f"{flag}: {folder} is a link, or holds no {' or '.join(signs)}. Remove it by hand.")
    stay = [Path(one).resolve() for one in (*inside, str(Path.cwd()), str(Path.home()))]
    if any(folder.resolve() in (one, *one.parents) for one in stay):
        raise InputError(
            f"{flag}: {folder} holds the run, its ledger, or where you are. Move those, or remove it by hand."
        )
    return folder


def holders(content: Record, request: Request) -> tuple[Copy, ...]:
    """What holds the rows by the record of the run, and the file that they were found in."""
    own = tuple(Copy(one.what, one.where) for one in content.holders)
    selection = request.opened.selection
    return (*own, Copy("the training file that was searched", selection.train.file)) if selection else own


def _elsewhere(content: Record, request: Request, going: Sequence[Left]) -> Iterator[Copy]:
    """What may still hold the rows: everything that is known to and does not go, and runs in progress."""
    gone = [one.path.absolute() for one in going]
    for one in holders(content, request):
        path = Path(one.where)
        if path.is_absolute() and (not path.exists() or any(parent in gone for parent in (path, *path.parents))):
            continue
        if path.absolute() == (workspace.state_folder() / "runs").absolute():
            continue
        yield one
    runs = workspace.state_folder() / "runs"
    for folder in sorted(runs.iterdir()) if runs.is_dir() else ():
        if workspace.in_use(folder):
            yield Copy("working folder of a run in progress", str(folder))


def _listed(going: Sequence[Left]) -> tuple[Going, ...]:
    return tuple(Going(str(one.path.absolute()), one.what) for one in going)


def _begun(request: Request) -> list[Going]:
    """Everything that sealings of the request set out to remove."""
    return [one for begun in request.of(entries.Sealing) for one in begun.remove]


def _paths(listed: Sequence[Going]) -> list[str]:
    return [one.path for one in listed]
