"""A fitted curvature on disk, for the next requests on the same model or on what was made of it.

`curvature.json` says what it is: the model by its hash, keyed hashes of the rows that it was fitted on, settings, names
and sizes of layers; `factors.safetensors` holds the two factors of each layer. No pickle; one folder, written whole or
not at all, that only its owner may enter.

What factors hold of rows. A = mean x x' is the second moment of a layer's inputs over the tokens of all rows, S that of
gradients. No text stands in them, and of many tokens they are an average. But hidden states of few tokens can be read
from it (with fewer tokens than the layer is wide, A's range is spanned by just those states), and from hidden states,
text; what rare rows have in common stands out among many. So the folder is to be kept as the rows themselves are, and
to be removed when they have to be; and a request may be about rows that were kept when the curvature was fitted, which
is why it has a keyed hash of each.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict, cast

import torch

from expunge.config.commands import Curvature
from expunge.curvature import CurvatureState, Saved
from expunge.data.tokens import Rendering
from expunge.errors import InputError
from expunge.files import hashing, plain_json
from expunge.files.reading import check_regular, read_json
from expunge.files.typed import Part, plain, taken
from expunge.influence import directions, drift
from expunge.intake.assembly import assemble
from expunge.intake.sets import Checked
from expunge.loop import fitting
from expunge.loop.fitting import Fitted
from expunge.method import Method, TwoFactors
from expunge.model.layers import Linear
from expunge.model.save import atomic_folder
from expunge.records import hashes
from expunge.reporting.finding import Count, Ids, Lines
from expunge.runs import distributed, environment
from expunge.runs.checkpoint import Checkpoints

FORMAT: Literal[1] = 1
SETTINGS, TENSORS = "curvature.json", "factors"
REMEDY = "Name a folder that expunge curvature wrote, or fit it anew."
NEAR = 1e-4  # relative: of a mean that is written with seven digits and made in float32


class Rows(Part, frozen=True):
    """Keyed hashes of the rows that it was fitted on, and of the first of them; `key`: the mark of the key."""

    key: str
    ids: Ids
    first: Ids


class Counted(Part, frozen=True):
    """Rows, the targets that the fit saw, and tokens."""

    rows: Count
    targets: Count
    tokens: Count


class Damping(Part, frozen=True):
    """Of the method that it was fitted for."""

    relative: float
    absolute: float | None


class Moving(Part, frozen=True):
    """The subspace; `seed` of a LoRA that was drawn; `linear`: which linear layers, where those alone move."""

    name: str
    seed: int | None
    linear: str | None


class Layer(Part, frozen=True):
    """Widths and mean diagonals of the two factors; `leader`: the layer that has the inputs' factor."""

    leader: str
    outputs: Count
    inputs: Count
    mean_outputs: float
    mean_inputs: float


class Settings(Part, frozen=True, kw_only=True):
    """What `curvature.json` says. `model` by its hashes; `tensors`: the hash of the other file."""

    format: Literal[1]
    model: Mapping[str, str]
    rows: Rows
    counts: Counted
    curvature: str
    curvature_options: Mapping[str, Any]
    damping: Damping
    subspace: Moving
    layers: Mapping[str, Layer]
    without_gradient: Lines
    rendering: Mapping[str, Any]
    dtype: str
    tensors: str
    created: str
    versions: Mapping[str, str]


class _Tensors(TypedDict):
    state: Saved
    first: dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Artefact:
    """What `curvature.json` says, where it lies, and the hash that records know it by."""

    folder: Path
    content: Settings
    hash: str

    @property
    def rows(self) -> frozenset[str]:
        """Keyed hashes of the rows that it was fitted on."""
        return frozenset(self.content.rows.ids)

    def state(self, device: torch.device) -> Saved:
        """`CurvatureState.state_dict` with its tensors on the device. Raises `InputError` where they are not those that
        the settings describe."""
        saved, layers = self._saved()["state"], self.content.layers
        tensors: dict[str, torch.Tensor] = saved["tensors"]
        for name, layer in layers.items():
            outputs, inputs = (layer.outputs, layer.mean_outputs), (layer.inputs, layer.mean_inputs)
            for side, owner, (size, mean) in (("outputs", name, outputs), ("inputs", layer.leader, inputs)):
                found = tensors.get(f"{owner} {side}")
                if found is None or tuple(found.shape) != (size, size):
                    raise _broken(self.folder, f"the factor of the {side} of {name} is not there, or of another size")
                if abs(float(found.diagonal().double().mean()) - mean) > NEAR * abs(mean):
                    raise _broken(self.folder, f"the factor of the {side} of {name} is not the one that was written")
        saved["tensors"] = {key: tensor.to(device) for key, tensor in tensors.items()}
        return saved

    def diagonals(self, whole: bool) -> dict[str, torch.Tensor]:
        """Of the factors, or of those of its first rows alone."""
        saved = self._saved()
        return drift.diagonals(saved["state"]["tensors"]) if whole else dict(saved["first"])

    def _saved(self) -> _Tensors:
        """The whole file. It is the one that was written, or `read` would have said so."""
        return cast(_Tensors, Checkpoints(self.folder).read(TENSORS))


def of_method(method: Method, name: str) -> TwoFactors:
    """The curvature that a method fits. Raises `InputError` where it fits none of two factors."""
    found = method.needs.factors
    if found is None:
        raise InputError(
            f"--method {name}: it takes no curvature of two factors, so there is none to save or to give. Use "
            "margin_newton, or leave --curvature out."
        )
    if not directions.curvature_of(found.curvature, found.curvature_options).cost(1).fit:
        raise InputError(f"curvature {found.curvature}: nothing is fitted, so there is nothing to save. Use kfac.")
    return found


def fit(config: Curvature, checked: Checked, output: Path, say: Callable[[str], None]) -> Path:
    """Loads the model, fits the curvature of the configuration's method and writes it. Raises `InputError`."""
    wanted = of_method(config.options, config.method)
    identity = distributed.from_main(partial(hashes.identity, checked.model))
    assembled = assemble(config, checked)
    made = fitting.fitted(config, wanted, assembled, say)
    with atomic_folder(output, private=True, replaces=config.overwrite) as folder:
        if distributed.main_process():
            write(folder, made, config, wanted, identity, assembled.problem.rendering)
    kept = sum(tensor.nbytes for tensor in made.fit.state.tensors.values())
    say(f"curvature: {output}: {len(made.fit.state.alive)} layers, {len(made.rows)} rows, {kept / 2**20:,.0f} MiB")
    say("It tells of the rows: keep it as they are kept, and remove it when they have to go.")
    return output


def write(
    folder: Path,
    made: Fitted,
    config: Curvature,
    factors: TwoFactors,
    identity: Mapping[str, str],
    rendering: Rendering,
) -> None:
    """Both files. `identity` of the model; no row's text is written."""
    secret, state = hashing.key(), made.fit.state
    subspace, linear = made.moving.subspace, made.moving.linear.which if made.moving.linear else None
    Checkpoints(folder).save(TENSORS, {"state": state.state_dict(), "first": made.diagonals})
    ids = tuple(hashing.keyed_hash(row.content, secret) for row in made.rows.rows)
    content = Settings(
        format=FORMAT,
        model=dict(identity),
        rows=Rows(hashing.key_mark(secret), ids, ids[: len(made.first)]),
        counts=Counted(len(made.rows), state.tokens, made.rows.tokens),
        curvature=factors.curvature,
        curvature_options=asdict(made.fit.curvature),  # type: ignore[call-overload]
        damping=Damping(factors.damping, factors.absolute_damping),
        subspace=Moving(subspace.name, config.seed if subspace.adapter else None, linear),
        layers={name: _layer(state, name, one) for name, one in made.layers.items() if name in state.alive},
        without_gradient=tuple(name for name in made.layers if name not in state.alive),
        rendering=asdict(rendering),
        dtype=str(next(iter(subspace.model.parameters())).dtype).removeprefix("torch."),
        tensors=hashing.full_hash(folder / f"{TENSORS}.safetensors"),
        created=environment.environment()["created"],
        versions=environment.versions(),
    )
    plain_json.write_json(folder / SETTINGS, plain(content))
    for file in folder.iterdir():
        file.chmod(0o600)


def _layer(state: CurvatureState, name: str, layer: Linear) -> Layer:
    leader = state.shared[name]
    means = [float(state.tensors[key].diagonal().double().mean()) for key in (f"{name} outputs", f"{leader} inputs")]
    return Layer(leader, layer.outputs, layer.inputs, *means)


def read(path: str) -> Artefact:
    """What lies in a folder, its tensors' hash compared, none of them loaded. Raises `InputError`."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder for --curvature. {REMEDY}")
    found = read_json(folder / SETTINGS, "the description of the curvature", REMEDY)
    content = taken(found, Settings, str(folder / SETTINGS), REMEDY)
    if odd := [name for name, one in content.layers.items() if one.leader not in content.layers]:
        raise _broken(folder, f"{SETTINGS} names no layer that has the factor of the inputs of {odd[0]}")
    file = folder / f"{TENSORS}.safetensors"
    check_regular(file, "the file of the factors", None)
    if distributed.from_main(lambda: hashing.full_hash(file)) != content.tensors:
        raise _broken(folder, f"{file.name} is not the file that {SETTINGS} was written for")
    return Artefact(folder, content, hashing.file_hash([folder / SETTINGS]))  # which has the hash of the other


def _broken(folder: Path, what: str) -> InputError:
    return InputError(f"{folder}: {what}. {REMEDY}")
