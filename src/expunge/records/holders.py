"""What still holds the rows after a run: everything that it was given, and what it cannot know of."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from expunge.config import recipes
from expunge.reporting.record import Holder, Saved
from expunge.runs import workspace

EARLIER = ", of earlier requests"
UNKNOWN = Holder("checkpoints, copies and backups of the original", "not known here")


def holders(config: Any, saved: Saved | None, before: Iterable[Holder]) -> tuple[Holder, ...]:
    """Things and where they lie, in full. `before`: what the record of the run before names."""
    found = [_of("the original model", config.model), UNKNOWN]
    if not Path(config.model).exists():
        found.append(_of("the original model as downloaded", "the cache of the hub (HF_HOME)"))
    if saved and isinstance(saved.base, str):
        found.append(_of("the base of this adapter, if the rows were in it", saved.base))
    for role, what in (("forget", "the rows that were given"), ("train", "the training rows that were given")):
        if path := recipes.data_path(config, role):
            found.append(_of(what, path))
    if path := getattr(config, "curvature", None):
        found.append(_of("the curvature that was given, if the rows were kept when it was fitted", path))
    found += [_of("rows of earlier requests that were given", path) for path in recipes.earlier_paths(config)]
    if url := getattr(config, "endpoint", None):
        found.append(Holder("what the server that was asked kept of the rows (logs, caches)", url))
    if config.show_rows:
        found.append(_of("the pages of this run, which show rows (--show-rows)", str(config.output)))
    if (runs := workspace.state_folder() / "runs").is_dir() and not all(map(workspace.in_use, runs.iterdir())):
        found.append(_of("working folders of interrupted runs, if they had the rows (expunge purge)", str(runs)))
    known = {one.where for one in found}
    others = (one for one in before if one.where not in known)
    return (*found, *(Holder(f"{one.what.removesuffix(EARLIER)}{EARLIER}", one.where) for one in others))


def _of(what: str, where: str) -> Holder:
    path = Path(where)
    return Holder(what, str(path.absolute()) if path.exists() else where)
