"""The commands of the erasure desk. None of them loads a model."""

from collections.abc import Callable
from typing import Any

from expunge.cli.ending import FAILED, Answer, agreed, say
from expunge.config import desk

COMMANDS: dict[str, type[Any]] = {
    "select": desk.Select,
    "filter": desk.Filter,
    "ledger": desk.Ledger,
    "seal": desk.Seal,
    "document": desk.Document,
}


def _select(config: Any) -> Answer:
    from expunge.desk import select

    found = select.run(config, say)
    return Answer(0, {"output": found.output, "rows": found.counts, "reasons": found.reasons})


def _filter(config: Any) -> Answer:
    from expunge.desk import keep_out

    found = keep_out.run(config, say)
    return Answer(0, {"output": found.output, "rows": found.counts})


def _ledger(config: Any) -> Answer:
    from expunge.records import ledger

    found = ledger.read(config.ledger).requests.values()
    for request in found:
        say(str(request))
    told = [
        {"id": one.id, "state": one.state, "rows": len(one.ids), "run": one.run.path if one.run else None}
        for one in found
    ]
    return Answer(0, {"requests": told})


def _seal(config: Any) -> Answer:
    from expunge.desk import seal
    from expunge.files.typed import plain

    found = seal.run(config, say, lambda: agreed("seal"))
    told = {"request": found.request.id, "state": found.request.state, "left": found.left}
    told |= {
        "removed": [one.path for one in found.going if one.path not in found.left],
        "elsewhere": [plain(one) for one in found.elsewhere],
    }
    return Answer(0 if found.done else FAILED, told)


def _document(config: Any) -> Answer:
    from expunge.desk import document

    return Answer(0, {"output": document.run(config, say)})


RUNNERS: dict[str, Callable[[Any], Answer]] = {
    "select": _select,
    "filter": _filter,
    "ledger": _ledger,
    "seal": _seal,
    "document": _document,
}
