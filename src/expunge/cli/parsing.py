"""Words of the command line to the configuration of a command. No torch.

The first look finds the recipe and the method that was named; only that method is loaded, so that `--help` answers at
once.
"""

import dataclasses
import inspect
import re
from typing import Annotated, Any, get_origin

import tyro

from expunge import registry
from expunge.config import commands, flags, recipes
from expunge.config.bounds import parts
from expunge.config.options import build
from expunge.errors import InputError

HELP, ALL = ("-h", "--help"), "all"
FRONT = (
    *("model", "unlearned", "endpoint", "forget", "retain", "holdout", "base", "train", "train_config", "retrained"),
    *("method", "methods", "seeds", "evidence", "recipe", "output"),
)
FLAG = re.compile(r"--[A-Za-z]")


def parse(command: str, kind: type[Any], rest: list[str]) -> Any:
    """Flags over recipe over defaults, as the command's dataclass. Raises `InputError` for a flag that it lacks."""
    _check_known(command, kind, rest)
    rest = _joined(kind, rest)
    if command == "list":
        rest = ["--catalogue", *rest] if rest and not rest[0].startswith("-") else rest
    recipe = _flag(rest, "recipe")
    values = recipes.from_yaml(recipe, kind, _flag(rest, "data-root")) if recipe else {}
    if command in ("plan", "unlearn", "curvature"):
        return _parse_with_options(command, kind, rest, values)
    default = build(kind, values, str(recipe)) if values else None
    return _tyro(kind, rest, command, default)


def _check_known(command: str, kind: type[Any], rest: list[str]) -> None:
    """Raises `InputError` for a flag that the command does not take, with the commands that do or a near miss."""
    flags = [one.name.replace("_", "-") for one in dataclasses.fields(kind)]
    known = {*flags, *(f"no-{flag}" for flag in flags), "help"}
    for word in rest:
        name = word.removeprefix("--").partition("=")[0].replace("_", "-")
        if not FLAG.match(word) or name.partition(".")[0] in known:
            continue
        others = commands.taking(name.replace("-", "_"))
        more = f"; it is one of {', '.join(others)}." if others else registry.suggestion(name, flags)
        raise InputError(f"expunge {command} takes no flag --{name}{more}")


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
    recipe = _flag(rest, "recipe")
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
    method = registry.load("methods", flags.METHOD if name == flags.AUTO else name)
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
    if (asked := [word for word in rest if word in HELP]) and issubclass(kind, flags.Inputs):
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
    short.__doc__ = f"{inspect.getdoc(kind)}\n\n{len(hidden)} more flags: expunge {command} --help all"
    return short


def _flag(arguments: list[str], name: str) -> str | None:
    """The value of `--name VALUE` or `--name=VALUE`, seen before the real parse."""
    for place, argument in enumerate(arguments):
        if argument == f"--{name}" and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"--{name}="):
            return argument.split("=", 1)[1]
    return None
