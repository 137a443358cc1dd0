"""A run as a request of a ledger: what earlier requests mean for it before, and what is entered after.

Rows of requests that were served before are judged again as long as their file lies where it lay and has not changed;
afterwards nothing can tell any more whether they came back, and that is said.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from expunge.config import recipes
from expunge.config.commands import EARLIER, Unlearn
from expunge.data import rows as reading
from expunge.errors import InputError
from expunge.files import hashing
from expunge.files.reading import read_json
from expunge.files.typed import taken
from expunge.intake.sets import benchmark_of
from expunge.records import ledger, record
from expunge.records.ledger import Ledger, Request
from expunge.records.run import Run
from expunge.reporting.entries import Judged, Mark, Opened, Ran, Selection, SelectionFile
from expunge.reporting.record import Record
from expunge.runs import distributed

Say = Callable[[str], None]
SELECTION = "request.json"  # beside rows that `expunge select` wrote
GONE = "no longer testable"
AGAIN = "Select the rows again, or take the file away from the rows."


@dataclass(frozen=True, slots=True)
class OnLedger:
    """A run on a ledger, which this process holds. `again`: the earlier requests, and whether their rows are judged
    again; `done`: the run, where it was finished already and only its entry is missing; `ledger` None: on none."""

    config: Unlearn
    ledger: Ledger | None = None
    again: Mapping[str, bool] = field(default_factory=dict)
    done: Run | None = None

    def finished(self, run: Run) -> Run:
        """Enters what the run came to, and returns it."""
        if self.ledger:
            self.ledger.with_entry(self._entry(run))
        return run

    def _entry(self, run: Run) -> Ran:
        judged, hashed = run.verdict, run.record.hashes
        return Ran(
            request=str(self.config.request),
            date=ledger.now(),
            path=str(run.output.absolute()),
            record=hashing.full_hash(record.find(run.output)),
            passes=run.passes,
            verdict=Judged(judged.sentence, judged.forget, judged.rest, judged.counts),
            hashes={name: hashed[name] for name in ("model", "output") if name in hashed},
            again={name: self._again(name, run.record) if given else GONE for name, given in self.again.items()},
        )

    def _again(self, name: str, content: Record) -> str:
        assert self.ledger
        ids = self.ledger.requests[name].ids
        rows = content.earlier.rows if content.earlier else ()
        found = Counter(row.verdict for row in rows if row.id in ids)
        return ", ".join(f"{count} {verdict}" for verdict, count in found.most_common()) or GONE


@contextmanager
def on_ledger(config: Unlearn, say: Say) -> Iterator[OnLedger]:
    """The run that a configuration asks for, as a request of the ledger that it names, if it names one.

    The ledger is held until the block ends; of several processes the main one does. Raises `InputError` where another
    process has it, where the request was served or sealed already, and for rows that are not those that it was opened
    with.
    """
    if not (config.ledger and config.request):
        if config.ledger or config.request:
            raise InputError("--ledger and --request belong together: name the folder, and an id for the request.")
        yield OnLedger(config)
        return
    with ExitStack() as stack:
        begun = distributed.from_main(partial(_begin, config, say, stack))
        yield begun if distributed.main_process() else OnLedger(begun.config, done=begun.done)


def _begin(config: Unlearn, say: Say, stack: ExitStack) -> OnLedger:
    assert config.ledger and config.request
    known, before = stack.enter_context(ledger.held(config.ledger, f"unlearn --request {config.request}"))
    if before:
        say(before)
    request = known.requests.get(config.request)
    finished = _finished(config, request)
    if request and not (finished and request.state == "open"):
        _check_open(config, request)
    if not config.forget:
        raise InputError("--forget is missing. Give it as a flag or in the recipe.")
    path = str(recipes.data_path(config, "forget"))
    rows = reading.read(path, "forget", benchmark_of(config).make_row, config.columns).rows
    marks = ledger.marks(rows, known.secret)
    ids = {one.id for one in marks}
    if request and (left := request.ids - ids):
        raise InputError(
            f"{path}: {len(left)} rows that request {request.id} was opened with are not there. Give them too, or give "
            "the rows another --request."
        )
    if not request or request.ids != ids:
        known = known.with_entry(_opened(config.request, path, marks, known.secret))
    for line in _said(config, known, ids):
        say(line)
    config, again = _with_earlier(config, known, say)
    return OnLedger(config, known, again, finished)


def _opened(request: str, path: str, marks: tuple[Mark, ...], secret: bytes) -> Opened:
    return Opened(
        request=request,
        date=ledger.now(),
        rows=marks,
        file=str(Path(path).absolute()),
        content=_content(path, secret),
        selection=selection_of(path),
    )


def _finished(config: Unlearn, request: Request | None) -> Run | None:
    """The run that wrote the output of this request, where it was interrupted between its end and its entry."""
    if not config.output or not record.find(config.output).is_file():
        return None
    content = record.read(config.output)
    same = content.setting("request") == config.request and content.setting("ledger") == _full(config.ledger)
    runs = request.of(Ran) if request else []
    if config.overwrite:  # the entry of what was there before names the same folder
        entered = hashing.full_hash(record.find(config.output)) in {one.record for one in runs}
    else:
        entered = _full(config.output) in {one.path for one in runs}
    return Run(Path(config.output), content) if same and not entered else None


def _check_open(config: Unlearn, request: Request) -> None:
    if request.state in ("sealing", "sealed"):
        raise InputError(
            f"{config.ledger}: request {request.id} is closed ({request}). Give new rows another --request."
        )
    if request.state == "served" and not config.force:
        raise InputError(f"{config.ledger}: request {request.id} was served ({request}). --force serves it again.")


def _said(config: Unlearn, known: Ledger, ids: set[str]) -> Iterator[str]:
    """What a person should hear of other requests before the run."""
    held = _served_in(str(config.model))
    for other in known.requests.values():
        if other.id == config.request:
            continue
        if twice := len(other.ids & ids):
            yield f"note: {twice} of {len(ids)} rows also belong to request {other.id}, which is {other.state}"
        if other.state == "open":
            yield f"note: request {other.id} is open: no run of it has passed"
        elif not other.ids <= held:
            yield (
                f"warning: this model does not come from the run that served request {other.id}, so what that removed "
                "may be in it"
            )


def _served_in(model: str) -> set[str]:
    """Ids of the rows that runs removed from a model on its way, by its record."""
    file = Path(model) / "expunge" / "record.json"
    return record.read(file).served if file.is_file() else set()


def _with_earlier(config: Unlearn, known: Ledger, say: Say) -> tuple[Unlearn, dict[str, bool]]:
    """The configuration with the rows of the requests that were served before, as far as they are still there."""
    files, again = [*config.earlier], {}
    given = {str(Path(path).absolute()) for path in recipes.earlier_paths(config)}
    for other in known.requests.values():
        if other.id == config.request or not other.of(Ran):
            continue
        path = other.opened.file
        again[other.id] = path in given or _content(path, known.secret) == other.opened.content
        if not again[other.id]:
            say(f"request {other.id}: {GONE}, since its {len(other.ids)} rows are no longer at {path}")
        elif path not in given:
            say(f"request {other.id}: its {len(other.ids)} rows are judged again")
            files.append(path)
    return replace(config, **{EARLIER: tuple(files)}), again  # type: ignore[arg-type]


def _content(path: str, secret: bytes) -> str:
    return hashing.keyed_file_hash(Path(path), secret) if Path(path).exists() else ""


def selection_of(path: str) -> Selection | None:
    """What `expunge select` wrote beside the rows of how they were found. Raises `InputError` for anything else."""
    file = Path(path).with_name(SELECTION)
    if not file.is_file():
        return None
    found = taken(read_json(file, "the selection", AGAIN), SelectionFile, str(file), AGAIN)
    return Selection(**{name: getattr(found, name) for name in Selection.__struct_fields__})


def _full(path: str | None) -> str | None:
    return str(Path(path).absolute()) if path else None
