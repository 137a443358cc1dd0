"""Hashes of what a run is given and what it writes: plain ones of code and models, keyed ones of rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path

from expunge import registry
from expunge.config import commands, recipes
from expunge.config.commands import EARLIER
from expunge.config.flags import Inputs, Method
from expunge.data.rows import Row
from expunge.files import hashing
from expunge.intake.sets import Checked
from expunge.model import load
from expunge.model.source import Source


def of_inputs(config: Inputs, checked: Checked) -> dict[str, str]:
    """Plain hashes of code and models by role, keyed hashes of the rows' contents."""
    found, secret = {"code": hashing.code_hash()}, hashing.key()
    if isinstance(config, Method) and config.method and is_dataclass(config.options):
        found |= of_method(config.method, asdict(config.options))  # type: ignore[arg-type]
    others = {role: getattr(config, role, None) for role in ("retrained", "unlearned")}
    sources = {role: Source.of(path, config) for role, path in others.items() if path}
    ours = {"model": checked.model, "base": checked.base, "first": checked.first}
    for role, source in (ours | sources).items():
        found |= of_model(role, source) if source else {}
    return found | {role: of_rows(checked.sets[role].rows, secret) for role in checked.sets}


def of_model(role: str, source: Source) -> dict[str, str]:
    """The hash of a local model by role and, where it is an adapter, of its base; nothing for hub names."""
    files = load.weight_files(source.path)
    return {role: hashing.file_hash(files)} | _base_hash(role, source) if files else {}


def identity(source: Source) -> dict[str, str]:
    """What a model is known by: its hash and its base's; of a hub model, its name."""
    return of_model("model", source) or {"model": source.path}


def of_method(name: str, options: Mapping[str, object]) -> dict[str, str]:
    """The hash of the files that a method and its options name by path; the package's code is hashed as a whole."""
    files = registry.sources("methods", name, options)
    return {"method": hashing.file_hash(files)} if files else {}


def of_rows(rows: Sequence[Row], secret: bytes) -> str:
    """Keyed hash of what rows hold, in their order, whatever file they stand in."""
    return hashing.keyed_hash(
        (part for row in rows for part in (row.kind, *row.content, *row.paraphrased, *row.perturbed)), secret
    )


def of_row_files(config: Inputs, checked: Checked, secret: bytes) -> dict[str, str]:
    """Keyed hashes of the files of rows as they lie; nothing for hub data sets and splits of a folder."""
    paths = {role: Path(recipes.data_path(config, role) or "") for role in commands.ROWS if role in checked.sets}
    paths |= {f"{EARLIER} {place}": Path(path) for place, path in enumerate(recipes.earlier_paths(config), 1)}
    return {role: hashing.keyed_file_hash(path, secret) for role, path in paths.items() if path.exists()}


def _base_hash(role: str, source: Source) -> dict[str, str]:
    """The hash of the base that an adapter stands on, by `<role>_base`; nothing for whole models."""
    files = load.weight_files(source.base) if source.adapter else []
    return {f"{role}_base": hashing.file_hash(files)} if files else {}
