"""The model that a line of requests began with, which a further request is held to where that can be.

A run that keeps rows as the model that it was given knew them lets every loss of the runs before stand, and adds its
own (docs/results/attacks.md). Held to the first model it leads back to what that knew of the rows to keep; what was
removed since then would come back with it, but for those rows in its system. So this takes the first model, as the
records name it, and every row that was served since.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from expunge.config.commands import EARLIER, Unlearning
from expunge.config.flags import Trust
from expunge.errors import InputError
from expunge.files import hashing
from expunge.intake.sets import Checked
from expunge.model.source import Source, is_hub_name
from expunge.records import hashes, lineage, record, sequence
from expunge.reporting.record import Record


def held_to(config: Unlearning, checked: Checked, say: Callable[[str], None]) -> Checked:
    """With the first model (`Checked.first`); as it is where this is no further request, or where it cannot be held to
    that, and then why is said."""
    file = record.find(checked.model.path)
    if not file.is_file():
        return checked
    content = record.read(file)
    try:
        _check_given(content, checked)
        first, runs = _first(content, checked.model, config)
    except InputError as error:
        say(f"note: rows are kept as the given model knows them, so what requests lose adds up: {error}")
        return checked
    say(f"kept: as {first.path} knew it, which {runs} run(s) before this one began with; what they removed stays so")
    return replace(checked, first=first)


def _check_given(content: Record, checked: Checked) -> None:
    """Raises `InputError` where the rows that were removed cannot be held where they are."""
    secret = hashing.key()
    if content.key != hashing.key_mark(secret):
        raise InputError(lineage.OTHER_KEY)
    given = {
        hashing.keyed_hash(row.content, secret)
        for role in ("forget", EARLIER)
        for row in (checked.sets[role].rows if role in checked.sets else ())
    }
    missing = content.served - given
    if EARLIER not in checked.sets and not missing:
        raise InputError("no rows of earlier requests were given beside those of this one (--earlier)")
    if missing:
        raise InputError(
            f"{len(missing)} of the {len(content.served)} rows that earlier requests removed were not given (--earlier)"
        )


def _first(content: Record, model: Source, trust: Trust) -> tuple[Source, int]:
    """The model that the line of runs began with, and how many they are. Raises `InputError` where the records do not
    lead to it, or where it is another one now."""
    weights, path, runs, oldest = hashes.identity(model).get("model"), model.path, 0, content
    for oldest in sequence.line(content):
        if oldest.hashes.get("output") != weights:
            raise InputError(f"{path} is not the model that the record beside it is about")
        weights, path, runs = oldest.hashes.get("model"), oldest.setting("model") or "", runs + 1
    if oldest.parent is not None:
        raise InputError(f"no record of the run that wrote {path} is there any more")
    if not (Path(path).is_dir() or is_hub_name(path)):
        raise InputError(f"no folder of the first model is at {path} any more")
    source = Source.of(path, trust)
    if hashes.identity(source) != sequence.given(oldest):
        raise InputError(f"{path} is not the model any more that the first run was given")
    return source, runs
