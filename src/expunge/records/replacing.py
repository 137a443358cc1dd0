"""Where a command writes, and what it may write over: outputs of expunge that nothing else needs.

An output that exists is replaced only where that was asked for (--overwrite), where all that lies in it was written by
expunge, where the command reads nothing that it holds, and where no request of a ledger was served by it: the ledger
would name a run that is gone.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from expunge.config import recipes
from expunge.config.bounds import fields_naming
from expunge.config.commands import EARLIER
from expunge.errors import InputError
from expunge.intake.sets import trust
from expunge.model import load
from expunge.records import record
from expunge.registry import SUFFIX
from expunge.runs import growing, outputs

LOG = f"expunge/{growing.NAME}"
ALONE = (  # all that other commands write, the first of which tells them
    ("curvature.json", "factors.safetensors"),
    ("influence.jsonl",),
    ("comparison.json", *(f"comparison.{end}" for end in ("html", "md", "csv", "tex", "svg")), "cells.csv", LOG),
    ("report.html", "report.md"),
    ("document.html", "document.pdf"),
)
TWIN = "expunge/retrain.json"


def place(config: Any) -> Path:
    """Where a command that reads rows writes. Raises `InputError`, before anything is computed or written."""
    if not config.output:
        raise InputError("--output is missing. Give it as a flag or in the recipe.")
    output = checked(config.output, config.overwrite, dict(_inputs(config)) if config.overwrite else {})
    if config.overwrite and output.exists():
        _check_ledger(output, config)
    return output


def checked(output: str | Path, overwrite: bool, inputs: Mapping[str, str]) -> Path:
    """The output, where it can be written or replaced. `inputs`: paths by what they are. Raises `InputError`."""
    path = outputs.check_output(output, overwrite)
    if overwrite and path.exists():
        if stranger := _stranger(path):
            raise InputError(
                f"{path}: --overwrite replaces outputs of expunge alone, and {stranger}. Name another --output."
            )
        own = path.resolve()
        for what, given in inputs.items():
            real = Path(given).resolve()
            if real == own or own in real.parents or (real in own.parents and (real / "config.json").is_file()):
                raise InputError(f"{path}: --overwrite would remove {what} ({given}). Name another --output.")
    return path


def _stranger(folder: Path) -> str:
    """What of a folder is not known to be expunge's; empty: nothing."""
    found = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_symlink() or not file.is_dir()}
    if (file := record.find(folder)).is_file():
        own = str(file.relative_to(folder))
        known = {own, str(Path(own).with_name(record.SEALED)), *record.read_whole(file)["files"]}
    elif twins := {str(file.parent.parent.relative_to(folder)) for file in folder.rglob(TWIN)}:
        known = {LOG} | {name for name in found for twin in twins if twin == "." or name.startswith(f"{twin}/")}
    else:
        known = next(({*names} for names in ALONE if names[0] in found), set())
        if not known:
            return "there is no record in it"
    return f"{min(found - known)} is no part of it" if found - known else ""


def _inputs(config: Any) -> Iterator[tuple[str, str]]:
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
        if (path := getattr(config, role)) and Path(path).is_dir() and (found := load.adapter_of(path, trust(config))):
            yield f"the base of --{role.replace('_', '-')}", found.base


def _check_ledger(output: Path, config: Any) -> None:
    """Raises `InputError` where a request was served by this output, or another one tried to be."""
    if not (file := record.find(output)).is_file():
        return
    content = record.read_whole(file)
    before = {name: content["config"].get(name) for name in ("ledger", "request")}
    if not before["ledger"]:
        return
    own = {name: recipes.resolved(config).get(name) for name in before}
    if own != before or content["verdict"]["passes"]:
        word = "was served by it" if content["verdict"]["passes"] else "was tried with it"
        raise InputError(
            f"{output}: request {before['request']} of the ledger {before['ledger']} {word}, and --overwrite would "
            "remove what the ledger names. Name another --output."
        )
