"""Where a command writes, and what it may write over: outputs of expunge that nothing else needs.

An output that exists is replaced only where that was asked for (--overwrite), where all that lies in it was written by
expunge, where the command reads nothing that it holds, and where no request of a ledger was served by it: the ledger
would name a run that is gone.
"""

from collections.abc import Iterator
from pathlib import Path

from expunge.config import recipes
from expunge.config.bounds import fields_naming
from expunge.config.commands import EARLIER, Compare, Curvature, Evaluate, Influence, Retrain, Unlearn
from expunge.errors import InputError
from expunge.model.source import Source
from expunge.records import overwritable, record
from expunge.registry import SUFFIX

Writing = Unlearn | Evaluate | Compare | Retrain | Curvature | Influence


def place(config: Writing) -> Path:
    """Where a command that reads rows writes. Raises `InputError`, before anything is computed or written."""
    if not config.output:
        raise InputError("--output is missing. Give it as a flag or in the recipe.")
    output = overwritable.checked(config.output, config.overwrite, dict(_inputs(config)) if config.overwrite else {})
    for role in fields_naming(type(config), "model"):
        given, flag = getattr(config, role), role.replace("_", "-")
        if given and overwritable.inside_model(output.resolve(), Path(given).resolve()):
            raise InputError(f"{output}: lies inside --{flag}, which is never written to. Name another --output.")
    if config.overwrite and output.exists():
        _check_ledger(output, config)
    return output


def _inputs(config: Writing) -> Iterator[tuple[str, str]]:
    """Everything that a command reads, by its flag."""
    kind = type(config)
    for name in fields_naming(kind):
        if name in ("output", "data_root", EARLIER):
            continue
        value = recipes.data_path(config, name) if name in fields_naming(kind, "rows") else getattr(config, name)
        if value:
            yield f"--{name.replace('_', '-')}", value
    yield from ((f"--{EARLIER}", path) for path in recipes.earlier_paths(config))
    if config.recipe and Path(config.recipe).is_file():
        yield "--recipe", config.recipe
    named = [getattr(config, "method", ""), *getattr(config, "methods", ())]
    yield from (("--method", one) for one in named if one.endswith(SUFFIX))
    for role in fields_naming(kind, "model"):
        if (path := getattr(config, role)) and Path(path).is_dir() and (found := Source.of(path, config).adapter):
            yield f"the base of --{role.replace('_', '-')}", found.base


def _check_ledger(output: Path, config: Writing) -> None:
    """Raises `InputError` where a request was served by this output, or another one tried to be."""
    if not (file := record.find(output)).is_file():
        return
    content = record.read(file)
    before = {name: content.setting(name) for name in ("ledger", "request")}
    if not before["ledger"]:
        return
    own = {name: recipes.resolved(config).get(name) for name in before}
    if own != before or content.verdict.passes:
        word = "was served by it" if content.verdict.passes else "was tried with it"
        raise InputError(
            f"{output}: request {before['request']} of the ledger {before['ledger']} {word}, and --overwrite would "
            "remove what the ledger names. Name another --output."
        )
