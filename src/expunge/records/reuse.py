"""A curvature that was fitted before, given to a run: whose it is, what refuses it, how far the model has gone since.

Taken for the model that it was fitted on, and for what runs made of that (a *child*, by the records of the runs,
`records.lineage`); a stranger's is refused by name before any model is loaded. A child's drift is measured before it is
used, and recorded; where it is large, the run warns and goes on.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TypeVar

import torch

from expunge.config import lora
from expunge.config.commands import Unlearning
from expunge.curvature import Saved
from expunge.data.rows import Row
from expunge.errors import InputError
from expunge.files import hashing
from expunge.files.typed import plain
from expunge.influence import directions
from expunge.influence.drift import Drift, diagonals, drift
from expunge.intake.sets import Checked
from expunge.loop import fitting
from expunge.method import ACCEPTANCE, TwoFactors
from expunge.model import trace
from expunge.model.choice import AUTO, LinearLayers
from expunge.model.layers import linear_weights
from expunge.model.source import Source
from expunge.problem import Problem, Split
from expunge.records import factors, hashes
from expunge.records.factors import Artefact
from expunge.records.lineage import ancestors

Say = Callable[[str], None]
Config = TypeVar("Config", bound=Unlearning)


@dataclass(slots=True)
class Given:
    """An artefact that goes with the model. `generations`: runs between the two, 0 for the very model."""

    artefact: Artefact
    factors: TwoFactors
    generations: int
    asked_again: list[str] | None
    say: Say
    drift: Drift | None = None
    same_rendering: bool = True

    def state(self, problem: Problem) -> Saved:
        """`Problem.fitted`: of a child, the drift is measured first. Raises `InputError` for other layers."""
        found = linear_weights(problem.model, problem.movable)
        _check_layers(self.artefact, {name: (one.outputs, one.inputs) for name, one in found.items()})
        self.same_rendering = asdict(problem.rendering) == self.artefact.content.rendering
        if self.generations:
            self.drift = _measured(self.artefact, problem, self.factors)
            if self.drift is None:
                self.say("note: no rows to keep were given, so nothing says how far the model has gone since the fit")
            if self.warning:
                self.say(f"warning: {self.warning}")
        return self.artefact.state(problem.runtime.device)

    @property
    def warning(self) -> str:
        """Where the model has gone far from where the curvature was fitted."""
        if self.drift is None or not self.drift.large:
            return ""
        return (
            f"the curvature was fitted {self.generations} run(s) before this model and has drifted (cosine "
            f"{self.drift.cosine:.2f}, size {self.drift.size:.2f} of its diagonals); expunge curvature fits it anew"
        )

    def figures(self) -> dict[str, object]:
        """For the record."""
        content = self.artefact.content
        return {
            "folder": str(self.artefact.folder.absolute()),
            "hash": self.artefact.hash,
            "model": content.model,
            "generations": self.generations,
            "created": content.created,
            "version": content.versions["expunge"],
            "counts": plain(content.counts),
            "forget_rows_in_fit": self.asked_again,
            "same_rendering": self.same_rendering,
            "drift": asdict(self.drift) | {"large": self.drift.large} if self.drift else None,
            "warning": self.warning,
        }


def given(config: Unlearning, checked: Checked, say: Say) -> Given | None:
    """What `--curvature` names, if anything, and whether it goes with this run. Raises `InputError`."""
    if not config.curvature:
        return None
    wanted = factors.of_method(config.options, config.method)
    artefact = factors.read(config.curvature)
    generations = _generations(artefact, checked.model)
    _check_settings(artefact, config, checked.model, wanted)
    found = Given(artefact, wanted, generations, _asked_again(artefact, checked.forget), say)
    whose = "this model" if not generations else f"the model {generations} run(s) before this one"
    say(f"curvature: fitted on {artefact.content.counts.rows} rows of {whose}; nothing is fitted here")
    if found.asked_again is None:
        say("note: the curvature's rows have hashes of another key, so nothing says whether forget rows are among them")
    elif found.asked_again:
        say(f"note: {len(found.asked_again)} of the forget rows are among the rows that the curvature was fitted on")
    return found


def hashed(found: Given | None) -> dict[str, str]:
    """The artefact's hash, for the hashes of what a run is given."""
    return {"curvature": found.artefact.hash} if found else {}


def linear(found: Given | None, asked: LinearLayers | None) -> str | None:
    """Which linear layers move: those of the curvature where that was left to us."""
    return _linear(found.artefact, asked) if found else None


def _linear(artefact: Artefact, asked: LinearLayers | None) -> str | None:
    if asked is None:
        return None
    own = artefact.content.subspace.linear
    return own if asked.which == AUTO else asked.which


def with_its_subspace(config: Config, found: Given | None) -> Config:
    """The configuration with the curvature's subspace where that was left to us."""
    if found is None or config.subspace != "auto":
        return config
    return replace(config, subspace=found.artefact.content.subspace.name)


def _generations(artefact: Artefact, model: Source) -> int:
    """How many runs lie between the models; 0 for one and the same."""
    path, own, wanted = model.path, hashes.identity(model), artefact.content.model
    if own == wanted:
        return 0
    for count, before in enumerate(ancestors(path, own), start=1):
        if before == wanted:
            return count
    raise InputError(
        f"{artefact.folder}: the curvature of another model ({wanted.get('model')}): {path} is {own['model']}, and no "
        "record leads from one to the other. Fit one with expunge curvature, or leave --curvature out."
    )


def _check_settings(artefact: Artefact, config: Unlearning, model: Source, wanted: TwoFactors) -> None:
    """What can be compared before a model is loaded. Raises `InputError`, naming what differs."""
    content = artefact.content
    options = asdict(directions.curvature_of(wanted.curvature, wanted.curvature_options))  # type: ignore[call-overload]
    for what, theirs, ours in (
        ("curvature", content.curvature, wanted.curvature),
        ("curvature_options", content.curvature_options, options),
    ):
        if theirs != ours:
            raise _other(artefact, f"{what} {theirs}, and this run asks for {ours}")
    name, seed = content.subspace.name, content.subspace.seed
    if lora.text(config.subspace, "") not in ("auto", name):
        raise _other(artefact, f"--subspace {name}, and this run asks for {config.subspace}")
    if seed not in (None, config.seed):
        raise _other(artefact, f"a LoRA that was drawn by --seed {seed}, and this run has {config.seed}")
    if name == "adapter":
        return  # whose layers are known once it is loaded
    needs = config.options.needs
    which = _linear(artefact, needs.linear) or ""
    made = trace.blueprint(model.config, name, torch.float32, config.trust_remote_code, needs.layers, which)
    layers = linear_weights(made.model, made.movable)
    _check_layers(artefact, {name: (one.outputs, one.inputs) for name, one in layers.items()})


def _check_layers(artefact: Artefact, ours: Mapping[str, tuple[int, int]]) -> None:
    content = artefact.content
    theirs = content.layers.keys() | set(content.without_gradient)
    if odd := sorted(theirs ^ ours.keys()):
        whose = "it has" if odd[0] in theirs else "it lacks"
        raise _other(artefact, f"other layers: {whose} {odd[0]}, and {len(odd)} differ")
    for name, one in content.layers.items():
        if (one.outputs, one.inputs) != ours[name]:
            raise _other(artefact, f"another size of {name}: {one.outputs} x {one.inputs}, here {ours[name]}")


def _other(artefact: Artefact, what: str) -> InputError:
    return InputError(
        f"{artefact.folder}: the curvature was fitted with {what}. Give the same, or fit one with expunge curvature."
    )


def _asked_again(artefact: Artefact, forget: tuple[Row, ...]) -> list[str] | None:
    """Keyed hashes of the forget rows that the curvature was fitted on; None where they are under another key."""
    secret = hashing.key()
    if artefact.content.rows.key != hashing.key_mark(secret):
        return None
    return [one for row in forget if (one := hashing.keyed_hash(row.content, secret)) in artefact.rows]


def _measured(artefact: Artefact, problem: Problem, wanted: TwoFactors) -> Drift | None:
    """On the rows that the fit began with, where all of them were given again, else on the first of those that were;
    None where no rows to keep were given."""
    if ACCEPTANCE not in problem.splits or "retain" not in problem.splits:
        return None
    first = _first(artefact, problem)
    rows = first or fitting.few(wanted.rows(problem))
    now = diagonals(fitting.factors_on(problem, rows, wanted))
    return drift(artefact.diagonals(whole=first is None), now, len(rows), first is not None)


def _first(artefact: Artefact, problem: Problem) -> Split | None:
    """The rows that the fit began with, in their order, so that they get the same noise."""
    secret = hashing.key()
    given = problem.splits["retain"]
    for name in ("unseen", ACCEPTANCE):
        given = given.joined(problem.splits[name]) if name in problem.splits else given
    ids = {hashing.keyed_hash(row.content, secret): place for place, row in enumerate(given.rows)}
    first = artefact.content.rows.first
    return given.of(sorted(ids[one] for one in first), "drift") if ids.keys() >= set(first) else None
