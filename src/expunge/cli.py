"""The command line: argv to the pipeline. No torch at module level.

The first look at argv finds the command, the recipe and the method that was named; only that method is loaded, so
that `--help` answers at once.
"""

import dataclasses
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import tyro

from expunge import config as configs
from expunge import recipes, registry
from expunge.errors import ExpungeError, InputError
from expunge.visible import in_a_line

COMMANDS: dict[str, type[Any]] = {
    "plan": configs.Plan,
    "unlearn": configs.Unlearn,
    "retrain": configs.Retrain,
    "evaluate": configs.Evaluate,
    "compare": configs.Compare,
    "report": configs.Report,
    "demo": configs.Demo,
    "list": configs.List,
}
FAILED, WRONG_INPUT, NOT_PASSED = 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command. 0: finished, the verdict passes; 1: failed; 2: wrong input; 3: finished, it does not pass."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries to one another, not to the user
    try:
        return _run(arguments)
    except ExpungeError as error:
        _complain(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        compares = arguments[:1] == ["compare"]
        what = "finished cells are kept, and the same command goes on" if compares else "nothing was written"
        _complain(f"interrupted; {what}.")
        return FAILED
    except SystemExit as stop:
        return int(stop.code or 0)
    except OSError as error:
        _complain(f"{error.strerror}: {error.filename}")
        return FAILED


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else WRONG_INPUT
    command, rest = arguments[0], arguments[1:]
    if command == "--version":
        from importlib.metadata import version

        print(f"expunge {version('expunge')}")
        return 0
    if command not in COMMANDS:
        raise InputError(f"there is no command {command!r}{registry.suggestion(command, list(COMMANDS))}")
    config = _parse(command, rest)
    configs.check_values(config)
    return RUNNERS[command](config)


def _usage() -> str:
    lines = ["usage: expunge COMMAND [FLAGS]; expunge COMMAND --help shows the flags", ""]
    lines += [f"  {name:<10}{(kind.__doc__ or '').strip().splitlines()[0]}" for name, kind in COMMANDS.items()]
    lines += ["", "exit code: 0 the verdict passes, 1 failed, 2 wrong input, 3 the verdict does not pass"]
    return "\n".join(lines)


def _parse(command: str, rest: list[str]) -> Any:
    """Flags over recipe over defaults, as the command's dataclass."""
    kind = COMMANDS[command]
    if command == "list":
        rest = ["--catalogue", *rest] if rest and not rest[0].startswith("-") else rest
    recipe = _flag(rest, "config")
    has_recipe = "config" in {field.name for field in dataclasses.fields(kind)}
    values = configs.from_yaml(recipe, kind, _flag(rest, "data")) if recipe and has_recipe else {}
    if command in ("plan", "unlearn"):
        return _parse_with_options(command, kind, rest, values)
    default = configs.build(kind, values, str(recipe)) if values else None
    return _tyro(kind, rest, command, default)


def _parse_with_options(command: str, kind: type[Any], rest: list[str], values: dict[str, Any]) -> Any:
    """Unlearn and plan take the named method's options as `--options.NAME`."""
    named = _flag(rest, "method") or values.get("method")
    options = values.pop("options", None)
    recipe = _flag(rest, "config")
    default = configs.build(kind, values, str(recipe))
    source = f"{recipe}: options" if recipe else "options"
    if options is not None and not isinstance(options, dict):
        raise InputError(f"{source}: expected keys and values, found {type(options).__name__}. Write steps: 5, say.")
    asks_help = {"-h", "--help"} & set(rest)
    if (named or default.method) == "all":
        bare = _without_options(kind)
        plain = _tyro(bare, rest, command, _with_options(bare, default, None))
        return _plain(kind, plain) if options is None else dataclasses.replace(_plain(kind, plain), options=options)
    if asks_help and not named:
        print(f"methods: {', '.join(registry.names('methods'))}; with --method NAME --help, its options follow\n")
        return _tyro(_without_options(kind), rest, command, None)
    method = registry.load("methods", str(named or default.method))
    chosen = configs.build(method, options or {}, source)
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
    return tyro.cli(kind, prog=f"expunge {command}", args=rest, **extra)


def _flag(arguments: list[str], name: str) -> str | None:
    """The value of `--name VALUE` or `--name=VALUE`, seen before the real parse."""
    for place, argument in enumerate(arguments):
        if argument == f"--{name}" and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"--{name}="):
            return argument.split("=", 1)[1]
    return None


def _say(line: str) -> None:
    """A line may hold names and tokens that somebody else chose: none of them may steer the terminal."""
    print(in_a_line(line), flush=True)


def _complain(line: str) -> None:
    print(f"expunge: {in_a_line(line)}", file=sys.stderr)


def _plan(config: Any) -> int:
    from expunge import pipeline

    for line in pipeline.run_plan(config):
        _say(line)
    return 0


def _unlearn(config: Any) -> int:
    from expunge import pipeline

    return 0 if pipeline.run_unlearn(config, _say).passes else NOT_PASSED


def _retrain(config: Any) -> int:
    from expunge import pipeline

    return 0 if all(twin.comparable for twin in pipeline.run_retrain(config, _say)) else NOT_PASSED


def _compare(config: Any) -> int:
    from expunge import pipeline

    return FAILED if pipeline.run_compare(config, _say).failed else 0


def _evaluate(config: Any) -> int:
    from expunge import pipeline

    return 0 if pipeline.run_evaluate(config, _say).passes else NOT_PASSED


def _report(config: Any) -> int:
    from expunge import pipeline

    _say(f"report: {pipeline.report(config.record, config.output)}")
    return 0


def _demo(config: Any) -> int:
    from expunge import demo

    return 0 if demo.run(config, _say).passes else NOT_PASSED


def _list(config: Any) -> int:
    known = (*registry.CATALOGUES, recipes.CATALOGUE)
    if not config.catalogue:
        raise InputError(f"which catalogue? Known: {', '.join(known)}.")
    if config.catalogue not in known:
        raise InputError(f"there is no catalogue {config.catalogue!r}{registry.suggestion(config.catalogue, known)}")
    if config.catalogue == recipes.CATALOGUE:
        found = recipes.summaries()
    else:
        found = {name: registry.summary(config.catalogue, name) for name in registry.names(config.catalogue)}
    for name, line in found.items():
        _say(f"{name:<22}{line}")
    return 0


RUNNERS: dict[str, Callable[[Any], int]] = {
    "plan": _plan,
    "unlearn": _unlearn,
    "retrain": _retrain,
    "evaluate": _evaluate,
    "compare": _compare,
    "report": _report,
    "demo": _demo,
    "list": _list,
}


def entry() -> None:
    """The console script. A terminal that cannot show a sign gets its escape in place of a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.exit(main())
