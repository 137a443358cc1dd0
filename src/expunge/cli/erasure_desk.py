"""The commands of the erasure desk. None of them loads a model."""

from collections.abc import Callable
from typing import Any

from expunge.cli.ending import Answer, say
from expunge.config import desk

COMMANDS: dict[str, type[Any]] = {"select": desk.Select}


def _select(config: Any) -> Answer:
    from expunge.desk import select

    found = select.run(config, say)
    return Answer(0, {"output": found.output, "rows": found.counts, "reasons": found.reasons})


RUNNERS: dict[str, Callable[[Any], Answer]] = {"select": _select}
