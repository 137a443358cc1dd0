"""The command line: argv to the pipeline. No torch at module level.

The first look at argv finds the command, the recipe and the method that was named; only that method is loaded, so
that `--help` answers at once.
"""

import dataclasses
import io
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any, get_origin

import tyro

from expunge import registry
from expunge.cli import erasure_desk
from expunge.cli.ending import FAILED, NOT_PASSED, WRONG_INPUT, Answer, agreed, told
from expunge.cli.ending import say as _say
from expunge.config import commands, housekeeping, recipes, shipped
from expunge.config.bounds import parts
from expunge.config.options import build, check_values
from expunge.errors import InputError
from expunge.files import hashing
from expunge.records import record

COMMANDS: dict[str, type[Any]] = {
    "plan": commands.Plan,
    "unlearn": commands.Unlearn,
    "retrain": commands.Retrain,
    "curvature": commands.Curvature,
    "influence": commands.Influence,
    "evaluate": commands.Evaluate,
    "compare": commands.Compare,
    **erasure_desk.COMMANDS,
    "report": housekeeping.Report,
    "record": housekeeping.Verify,
    "purge": housekeeping.Purge,
    "demo": housekeeping.Demo,
    "list": housekeeping.List,
}

HELP, ALL = ("-h", "--help"), "all"
FRONT = (
    *("model", "unlearned", "endpoint", "forget", "retain", "holdout", "base", "train", "train_config", "retrained"),
    *("method", "methods", "seeds", "evidence", "config", "output"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (see `ending`)."""
    return told(list(sys.argv[1:] if argv is None else argv), _run)


def _run(arguments: list[str]) -> Answer:
    if not arguments or arguments[0] in HELP:
        print(_usage())
        return Answer(0 if arguments else WRONG_INPUT)
    command, rest = arguments[0], arguments[1:]
    if command == "--version":
        from importlib.metadata import version

        print(f"expunge {version('expunge')}")
        return Answer(0, {"version": version("expunge")})
    if command not in COMMANDS:
        raise InputError(f"there is no command {command!r}{registry.suggestion(command, list(COMMANDS))}")
    config = _parse(command, rest)
    check_values(config)
    return RUNNERS[command](config)


def _usage() -> str:
    lines = ["usage: expunge COMMAND [FLAGS]; expunge COMMAND --help shows the flags, --help all every one", ""]
    lines += [f"  {name:<10}{(kind.__doc__ or '').strip().splitlines()[0]}" for name, kind in COMMANDS.items()]
    lines += ["", "every command takes --json: one line of JSON on stdout, all else on stderr"]
    lines += ["exit code: 0 the verdict passes, 1 failed, 2 wrong input, 3 it does not pass, or a hash differs"]
    lines += ["           130 interrupted: the same command goes on from what was kept"]
    return "\n".join(lines)


def _parse(command: str, rest: list[str]) -> Any:
    """Flags over recipe over defaults, as the command's dataclass."""
    kind = COMMANDS[command]
    rest = _joined(kind, rest)
    if command == "list":
        rest = ["--catalogue", *rest] if rest and not rest[0].startswith("-") else rest
    recipe = _flag(rest, "config")
    has_recipe = "config" in {field.name for field in dataclasses.fields(kind)}
    values = recipes.from_yaml(recipe, kind, _flag(rest, "data")) if recipe and has_recipe else {}
    if command in ("plan", "unlearn", "curvature"):
        return _parse_with_options(command, kind, rest, values)
    default = build(kind, values, str(recipe)) if values else None
    return _tyro(kind, rest, command, default)


def _joined(kind: type[Any], rest: list[str]) -> list[str]:
    """A flag of several values may be given several times: `--earlier a --earlier b` is `--earlier a b`, where only the
    last one would count."""
    lists = [one.name for one in dataclasses.fields(kind) if get_origin(parts(one.type)[0]) is tuple]
    several = {f"--{name.replace('_', '-')}" for name in lists}
    kept: list[str] = []
    values: dict[str, list[str]] = {}
    flag = ""
    for word in rest:
        name, given, value = word.partition("=")
        if word.startswith("--"):
            flag = name if name in several else ""
        if not flag:
            kept.append(word)
        elif not word.startswith("--"):
            values[flag].append(word)
        else:
            values.setdefault(flag, [])
            values[flag] += [value] if given else []
    return [*kept, *(word for name, own in values.items() for word in (name, *own))]


def _parse_with_options(command: str, kind: type[Any], rest: list[str], values: dict[str, Any]) -> Any:
    """Unlearn and plan take the named method's options as `--options.NAME`."""
    named = _flag(rest, "method") or values.get("method")
    options = values.pop("options", None)
    recipe = _flag(rest, "config")
    default = build(kind, values, str(recipe))
    source = f"{recipe}: options" if recipe else "options"
    if options is not None and not isinstance(options, dict):
        raise InputError(f"{source}: expected keys and values, found {type(options).__name__}. Write steps: 5, say.")
    asks_help = {*HELP} & set(rest)
    if (named or default.method) == "all":
        bare = _without_options(kind)
        plain = _tyro(bare, rest, command, _with_options(bare, default, None))
        return _plain(kind, plain) if options is None else dataclasses.replace(_plain(kind, plain), options=options)
    if asks_help and not named:
        print(f"methods: {', '.join(registry.names('methods'))}; with --method NAME --help, its options follow\n")
        return _tyro(_without_options(kind), rest, command, None)
    name = str(named or default.method)
    method = registry.load("methods", commands.METHOD if name == commands.AUTO else name)
    chosen = build(method, options or {}, source)
    taking = dataclasses.make_dataclass(
        kind.__name__,
        [("options", method, dataclasses.field(default_factory=method))],
        bases=(kind,),
        frozen=True,
        kw_only=True,
    )
    taking.__doc__ = kind.__doc__
    return _plain(kind, _tyro(taking, rest, command, _with_options(taking, default, chosen)))


def _with_options(kind: type[Any], default: Any, options: Any) -> Any:
    plain = {field.name: getattr(default, field.name) for field in dataclasses.fields(default)}
    return kind(**plain | {"options": options})


def _plain(kind: type[Any], parsed: Any) -> Any:
    return kind(**{field.name: getattr(parsed, field.name) for field in dataclasses.fields(kind)})


def _without_options(kind: type[Any]) -> type[Any]:
    bare = dataclasses.make_dataclass(
        kind.__name__,
        [("options", Annotated[Any, tyro.conf.Suppress], dataclasses.field(default=None))],
        bases=(kind,),
        frozen=True,
        kw_only=True,
    )
    bare.__doc__ = kind.__doc__
    return bare


def _tyro(kind: type[Any], rest: list[str], command: str, default: Any) -> Any:
    extra = {} if default is None else {"default": default}
    if (asked := [word for word in rest if word in HELP]) and issubclass(kind, commands.Inputs):
        if ALL in rest[rest.index(asked[0]) :][:2]:
            return tyro.cli(kind, prog=f"expunge {command}", args=asked, **extra)
        return tyro.cli(_shortened(kind, command), prog=f"expunge {command}", args=asked)
    return tyro.cli(kind, prog=f"expunge {command}", args=rest, **extra)


def _shortened(kind: type[Any], command: str) -> type[Any]:
    """The command with the flags that people need; the others stand in its whole help."""
    hidden = [field for field in dataclasses.fields(kind) if field.name not in (*FRONT, "options")]
    rare = [
        (one.name, Annotated[one.type, tyro.conf.Suppress], dataclasses.field(default=one.default)) for one in hidden
    ]
    short = dataclasses.make_dataclass(kind.__name__, rare, bases=(kind,), frozen=True, kw_only=True)
    short.__doc__ = f"{kind.__doc__}\n\n{len(hidden)} more flags: expunge {command} --help all"
    return short


def _flag(arguments: list[str], name: str) -> str | None:
    """The value of `--name VALUE` or `--name=VALUE`, seen before the real parse."""
    for place, argument in enumerate(arguments):
        if argument == f"--{name}" and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"--{name}="):
            return argument.split("=", 1)[1]
    return None


def _plan(config: Any) -> Answer:
    from expunge import pipeline

    made = pipeline.run_plan(config, _say)
    for line in made.lines:
        _say(line)
    return Answer(0, {"lines": list(made.lines)})


def _judged(run: Any) -> Answer:
    """Of a run with a verdict."""
    judged = run.record["verdict"]
    told = {name: judged[name] for name in ("passes", "sentence", "forget", "rest", "counts")}
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
    told = {"output": made.output, "report": made.report, "cells": len(made.content["cells"]), "failed": made.failed}
    return Answer(FAILED if made.failed else 0, told)


def _evaluate(config: Any) -> Answer:
    from expunge import pipeline

    return _judged(pipeline.run_evaluate(config, _say))


def _report(config: Any) -> Answer:
    from expunge.records import pages

    page = pages.report(config.record, config.output)
    _say(f"report: {page}")
    return Answer(0, {"report": page})


def _verify(config: Any) -> Answer:
    from expunge.records.verify import verify

    items = verify(config)
    for item in items:
        _say(str(item))
    found = {state: sum(item.state == state for item in items) for state in ("same", "differs", "cannot be checked")}
    own = hashing.full_hash(record.find(config.output))
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
