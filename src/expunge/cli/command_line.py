"""The command line: argv to the pipeline. No torch at module level.

Each command imports what it runs, so that `--help` answers at once.
"""

import dataclasses
import io
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any

from expunge import registry
from expunge.cli import erasure_desk, parsing
from expunge.cli.ending import FAILED, NOT_PASSED, WRONG_INPUT, Answer, agreed, told
from expunge.cli.ending import say as _say
from expunge.config import commands, housekeeping, shipped
from expunge.config.options import check_values
from expunge.errors import InputError
from expunge.files import hashing
from expunge.records import record

COMMANDS: dict[str, type[Any]] = {
    **commands.BY_NAME,
    **erasure_desk.COMMANDS,
    "report": housekeeping.Report,
    "record": housekeeping.Verify,
    "purge": housekeeping.Purge,
    "demo": housekeeping.Demo,
    "list": housekeeping.List,
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (see `ending`)."""
    return told(list(sys.argv[1:] if argv is None else argv), _run)


def _run(arguments: list[str]) -> Answer:
    if not arguments or arguments[0] in parsing.HELP:
        print(_usage())
        return Answer(0 if arguments else WRONG_INPUT)
    command, rest = arguments[0], arguments[1:]
    if command == "--version":
        from importlib.metadata import version

        print(f"expunge {version('expunge')}")
        return Answer(0, {"version": version("expunge")})
    if command not in COMMANDS:
        raise InputError(f"there is no command {command!r}{registry.suggestion(command, list(COMMANDS))}")
    config = parsing.parse(command, COMMANDS[command], rest)
    check_values(config)
    return RUNNERS[command](config)


def _usage() -> str:
    lines = ["usage: expunge COMMAND [FLAGS]; expunge COMMAND --help shows the flags, --help all every one", ""]
    lines += [f"  {name:<10}{(kind.__doc__ or '').strip().splitlines()[0]}" for name, kind in COMMANDS.items()]
    lines += ["", "every command takes --json: one line of JSON on stdout, all else on stderr"]
    lines += ["exit code: 0 the verdict passes, 1 failed, 2 wrong input, 3 it does not pass, or a hash differs"]
    lines += ["           130 interrupted: the same command goes on from what was kept"]
    return "\n".join(lines)


def _plan(config: Any) -> Answer:
    from expunge import pipeline

    made = pipeline.run_plan(config, _say)
    for line in made.lines:
        _say(line)
    return Answer(0, {"lines": list(made.lines)})


def _judged(run: Any) -> Answer:
    """Of a run with a verdict."""
    told = {name: getattr(run.verdict, name) for name in ("passes", "sentence", "forget", "rest", "counts")}
    return Answer(0 if run.passes else NOT_PASSED, {"output": run.output, "report": run.report} | told)


def _unlearn(config: Any) -> Answer:
    from expunge import pipeline

    return _judged(pipeline.run_unlearn(config, _say))


def _retrain(config: Any) -> Answer:
    from expunge import pipeline

    twins = pipeline.run_retrain(config, _say)
    told = [dataclasses.asdict(twin) | {"comparable": twin.comparable} for twin in twins]
    return Answer(0 if all(twin.comparable for twin in twins) else NOT_PASSED, {"twins": told})


def _curvature(config: Any) -> Answer:
    from expunge import pipeline

    return Answer(0, {"output": pipeline.run_fit_curvature(config, _say)})


def _influence(config: Any) -> Answer:
    from expunge import pipeline

    made = pipeline.run_influences(config, _say)
    return Answer(0, {"output": made.output, "rows": len(made.rows)})


def _compare(config: Any) -> Answer:
    from expunge import pipeline

    made = pipeline.run_compare(config, _say)
    told = {"output": made.output, "report": made.report, "cells": len(made.content.cells), "failed": made.failed}
    return Answer(FAILED if made.failed else 0, told)


def _evaluate(config: Any) -> Answer:
    from expunge import pipeline

    return _judged(pipeline.run_evaluate(config, _say))


def _report(config: Any) -> Answer:
    from expunge.records import pages

    page = pages.report(config.record, config.output, overwrite=config.overwrite)
    _say(f"report: {page}")
    return Answer(0, {"report": page})


def _verify(config: Any) -> Answer:
    from expunge.records.verify import verify

    items = verify(config)
    for item in items:
        _say(str(item))
    found = {state: sum(item.state == state for item in items) for state in ("same", "differs", "cannot be checked")}
    own = hashing.full_hash(record.find(config.record))
    _say(f"{', '.join(f'{count} {state}' for state, count in found.items())}; the record itself has SHA-256 {own}")
    told = {"sha256": own, "counts": found, "items": [dataclasses.asdict(item) for item in items]}
    return Answer(NOT_PASSED if found["differs"] else 0, told)


def _purge(config: Any) -> Answer:
    from expunge.reporting.words import size
    from expunge.runs import purge

    found = purge.left(caches=not config.keep_caches)
    for one in found:
        _say(f"{size(one.bytes):>12}  {one.path} ({one.what})")
    if not found:
        _say("nothing to remove")
    elif not config.yes and not agreed("purge"):
        _say("nothing was removed")
        found = []
    gone = purge.remove(found)
    stay = [one.path for one in found if one.path not in gone]
    for path in stay:
        _say(f"could not be removed, or is in use: {path}")
    return Answer(FAILED if stay else 0, {"removed": gone, "left": stay})


def _demo(config: Any) -> Answer:
    from expunge import pipeline

    return _judged(pipeline.run_demo(config, _say))


def _list(config: Any) -> Answer:
    known = (*registry.CATALOGUES, shipped.CATALOGUE)
    if not config.catalogue:
        raise InputError(f"which catalogue? Known: {', '.join(known)}.")
    if config.catalogue not in known:
        raise InputError(f"there is no catalogue {config.catalogue!r}{registry.suggestion(config.catalogue, known)}")
    if config.catalogue == shipped.CATALOGUE:
        found = shipped.summaries()
    else:
        found = {name: registry.summary(config.catalogue, name) for name in registry.names(config.catalogue)}
    for name, line in found.items():
        _say(f"{name:<22}{line}")
    return Answer(0, {"entries": found})


RUNNERS: dict[str, Callable[[Any], Answer]] = {
    "plan": _plan,
    "unlearn": _unlearn,
    "retrain": _retrain,
    "curvature": _curvature,
    "influence": _influence,
    "evaluate": _evaluate,
    "compare": _compare,
    **erasure_desk.RUNNERS,
    "report": _report,
    "record": _verify,
    "purge": _purge,
    "demo": _demo,
    "list": _list,
}


def entry() -> None:
    """The console script.

    A terminal that cannot show a sign gets its escape in place of a traceback. A polite request to end (SIGTERM, as
    schedulers send it) is heard as Ctrl-C.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
