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

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from expunge.config.commands import Curvature
from expunge.errors import InputError
from expunge.files import hashing, plain_json
from expunge.files.reading import check_regular, read_json
from expunge.influence import directions, drift
from expunge.intake.assembly import assemble
from expunge.intake.sets import Checked
from expunge.loop import fitting
from expunge.loop.fitting import Fitted
from expunge.method import Method, TwoFactors
from expunge.model.layers import Linear
from expunge.model.save import atomic_folder
from expunge.records import hashes
from expunge.runs import distributed, environment
from expunge.runs.checkpoint import Checkpoints

FORMAT = 1
SETTINGS, TENSORS = "curvature.json", "factors"
REMEDY = "Name a folder that expunge curvature wrote, or fit it anew."
HASH = re.compile(r"[0-9a-f]{16}")
NEAR = 1e-4  # relative: of a mean that is written with seven digits and made in float32


@dataclass(frozen=True, slots=True)
class Artefact:
    """What `curvature.json` says, where it lies, and the hash that records know it by."""

    folder: Path
    content: Mapping[str, Any]
    hash: str

    @property
    def rows(self) -> frozenset[str]:
        """Keyed hashes of the rows that it was fitted on."""
        return frozenset(self.content["rows"]["ids"])

    def state(self, device: torch.device) -> dict[str, Any]:
        """`CurvatureState.state_dict` with its tensors on the device. Raises `InputError` where they are not those that
        the settings describe."""
        saved, layers = self._saved()["state"], self.content["layers"]
        tensors: dict[str, torch.Tensor] = saved["tensors"]
        for name, layer in layers.items():
            for side in ("outputs", "inputs"):
                key = f"{layer['leader'] if side == 'inputs' else name} {side}"
                size, mean = layer[side], layer[f"mean_{side}"]
                found = tensors.get(key)
                if found is None or tuple(found.shape) != (size, size):
                    raise _broken(self.folder, f"the factor of the {side} of {name} is not there, or of another size")
                if abs(float(found.diagonal().double().mean()) - mean) > NEAR * abs(mean):
                    raise _broken(self.folder, f"the factor of the {side} of {name} is not the one that was written")
        saved["tensors"] = {key: tensor.to(device) for key, tensor in tensors.items()}
        return dict(saved)

    def diagonals(self, whole: bool) -> dict[str, torch.Tensor]:
        """Of the factors, or of those of its first rows alone."""
        saved = self._saved()
        return drift.diagonals(saved["state"]["tensors"]) if whole else dict(saved["first"])

    def _saved(self) -> Any:
        """The whole file. It is the one that was written, or `read` would have said so."""
        return Checkpoints(self.folder).read(TENSORS)


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
    rendering: Any,
) -> None:
    """Both files. `identity` of the model; no row's text is written."""
    secret, state = hashing.key(), made.fit.state
    subspace, linear = made.moving.subspace, made.moving.linear.which if made.moving.linear else None
    Checkpoints(folder).save(TENSORS, {"state": state.state_dict(), "first": made.diagonals})
    ids = [hashing.keyed_hash(row.content, secret) for row in made.rows.rows]
    content = {
        "format": FORMAT,
        "model": dict(identity),
        "rows": {"key": hashing.key_mark(secret), "ids": ids, "first": ids[: len(made.first)]},
        "counts": {"rows": len(made.rows), "targets": state.tokens, "tokens": made.rows.tokens},
        "curvature": factors.curvature,
        "curvature_options": asdict(made.fit.curvature),  # type: ignore[call-overload]
        "damping": {"relative": factors.damping, "absolute": factors.absolute_damping},
        "subspace": {"name": subspace.name, "seed": config.seed if subspace.adapter else None, "linear": linear},
        "layers": {name: _layer(state, name, one) for name, one in made.layers.items() if name in state.alive},
        "without_gradient": [name for name in made.layers if name not in state.alive],
        "rendering": asdict(rendering),
        "dtype": str(next(iter(subspace.model.parameters())).dtype).removeprefix("torch."),
        "tensors": hashing.full_hash(folder / f"{TENSORS}.safetensors"),
        "created": environment.environment()["created"],
        "versions": environment.versions(),
    }
    plain_json.write_json(folder / SETTINGS, content)
    for file in folder.iterdir():
        file.chmod(0o600)


def _layer(state: Any, name: str, layer: Linear) -> dict[str, Any]:
    leader = state.shared[name]
    means = [float(state.tensors[key].diagonal().double().mean()) for key in (f"{name} outputs", f"{leader} inputs")]
    sizes = {"outputs": layer.outputs, "inputs": layer.inputs}
    return {"leader": leader, **sizes, "mean_outputs": means[0], "mean_inputs": means[1]}


def read(path: str) -> Artefact:
    """What lies in a folder, its tensors' hash compared, none of them loaded. Raises `InputError`."""
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder for --curvature. {REMEDY}")
    content = read_json(folder / SETTINGS, "the description of the curvature", REMEDY)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _broken(folder, f"{SETTINGS} is not of format {FORMAT}, or another version wrote it")
    if bad := [name for name, holds in _FORMS.items() if not holds(content.get(name))]:
        raise _broken(folder, f"{SETTINGS} cannot be read at {bad[0]}")
    file = folder / f"{TENSORS}.safetensors"
    check_regular(file, "the file of the factors", None)
    if distributed.from_main(lambda: hashing.full_hash(file)) != content["tensors"]:
        raise _broken(folder, f"{file.name} is not the file that {SETTINGS} was written for")
    return Artefact(folder, content, hashing.file_hash([folder / SETTINGS]))  # which has the hash of the other


def _broken(folder: Path, what: str) -> InputError:
    return InputError(f"{folder}: {what}. {REMEDY}")


def _texts(value: Any) -> bool:
    return isinstance(value, dict) and bool(value) and all(isinstance(one, str) for one in value.values())


def _ids(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and HASH.fullmatch(one) for one in value)


def _one_layer(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and isinstance(value.get("leader"), str)
        and all(type(value.get(side)) is int for side in ("outputs", "inputs"))
        and all(type(value.get(f"mean_{side}")) in (int, float) for side in ("outputs", "inputs"))
    )


_FORMS: dict[str, Callable[[Any], bool]] = {
    "model": _texts,
    "rows": lambda value: (
        isinstance(value, dict)
        and isinstance(value.get("key"), str)
        and _ids(value.get("ids"))
        and _ids(value.get("first"))
    ),
    "curvature": lambda value: isinstance(value, str),
    "curvature_options": lambda value: isinstance(value, dict),
    "subspace": lambda value: (
        isinstance(value, dict)
        and isinstance(value.get("name"), str)
        and type(value.get("seed", "")) in (int, type(None))
        and isinstance(value.get("linear", ""), str | None)
    ),
    "layers": lambda value: (
        isinstance(value, dict)
        and all(map(_one_layer, value.values()))
        and all(one["leader"] in value for one in value.values())
    ),
    "without_gradient": lambda value: isinstance(value, list) and all(isinstance(one, str) for one in value),
    "rendering": lambda value: isinstance(value, dict),
    "tensors": lambda value: isinstance(value, str),
}
