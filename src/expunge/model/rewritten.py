"""Brings what was written to the form of what was given: every tensor of the input is there, in its own dtype.

transformers writes a model's own tensors: one of two tied ends, and nothing that it passed over when it loaded (masks
of old checkpoints, layers for speculative decoding, a vision tower that its text model has no place for). Other loaders
may ask for those, so they go over as they came.
"""

import json
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from expunge.errors import ExpungeError
from expunge.model import sound, stored
from expunge.model.stored import INDEX, KINDS, Stored


class Unheld(ExpungeError):
    """A dtype that cannot hold a weight: the message says which."""


def held(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """The tensor in a dtype, if it is of floating point. Raises `Unheld` where numbers become infinite."""
    if not tensor.is_floating_point():
        return tensor
    made = tensor.to(dtype)
    if sound.first_unfinished(iter([(name, made)])):
        raise Unheld(
            f"{str(dtype).removeprefix('torch.')} cannot hold {name} (it ends at {torch.finfo(dtype).max:.3g})"
        )
    return made


def given_names(names: Iterable[str], given: Container[str], prefix: str) -> dict[str, str]:
    """The names that tensors were given under: without the prefix of the base model, where they came without (GPT-2's
    on the hub), else as they are."""
    cut = {name: name.removeprefix(f"{prefix}.") for name in names}
    return {name: cut[name] if name not in given and cut[name] in given else name for name in cut}


def rename(folder: Path, names: Mapping[str, str]) -> None:
    """Writes the files anew with other names."""
    for file in stored.files(folder):
        save_file({names[name]: one for name, one in load_file(file).items()}, file, metadata={"format": "pt"})
    if (index := folder / INDEX).is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] = {names[name]: file for name, file in content["weight_map"].items()}
        index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def as_given(
    folder: Path,
    written: Mapping[str, Stored],
    given: Mapping[str, Stored],
    dtype: torch.dtype | None,
    state: Mapping[str, Tensor],
) -> list[str]:
    """Adds the tensors that `written` files lack of the `given` ones, and, without a `dtype`, gives each its own.

    `state`: the model's tensors by its own names. Returns the names of matrices that the model does not have, which
    stand there as they came. Raises `Unheld`.
    """
    extra: dict[str, Tensor] = {}
    foreign = []
    for name in sorted(given.keys() - written.keys()):
        tensor = state[name] if name in state else _twin(name, written, given)
        if tensor is None:
            tensor = stored.read(given[name])
            foreign += [name] if tensor.is_floating_point() and tensor.dim() in (2, 3) else []
        extra[name] = held(name, tensor, dtype or KINDS.get(given[name].dtype, tensor.dtype))
    odd = {} if dtype else {name: given[name] for name, one in written.items() if _differs(one, given.get(name))}
    if extra or odd:
        _rewrite(folder, written, extra, odd)
    return foreign


def _like(given: Stored, tensor: Tensor) -> Tensor:
    """The tensor in the dtype of the given one; numbers that are the given ones but for rounding are the given ones."""
    made = held(given.name, tensor, KINDS[given.dtype])
    if given.dtype != "F64":
        return made
    wide = stored.read(given)
    return torch.where(wide.float() == tensor.float(), wide, made)


def _differs(one: Stored, given: Stored | None) -> bool:
    if given is None or given.dtype not in KINDS or one.dtype not in KINDS:
        return False
    return one.dtype != given.dtype or given.dtype == "F64"  # which models are not loaded in


def _twin(name: str, written: Mapping[str, Stored], given: Mapping[str, Stored]) -> Tensor | None:
    """Of a tensor that was given twice under two names (tied ends), what was written under the other."""
    own = given[name]
    if (
        len(own.shape) != 2 or not stored.read(own, 1).unique().numel() > 1
    ):  # zeros and ones are alike without being tied
        return None
    alike = [one for key, one in given.items() if key in written and (one.shape, one.dtype) == (own.shape, own.dtype)]
    for one in alike:
        if torch.equal(stored.read(own, 1), stored.read(one, 1)) and torch.equal(stored.read(own), stored.read(one)):
            return stored.read(written[one.name])
    return None


def _rewrite(
    folder: Path, written: Mapping[str, Stored], extra: Mapping[str, Tensor], odd: Mapping[str, Stored]
) -> None:
    """The files anew, one at a time; what comes in addition stands in the last one."""
    files = sorted({one.file for one in written.values()})
    for file in files:
        tensors = load_file(file)
        tensors = {name: _like(odd[name], one) if name in odd else one for name, one in tensors.items()}
        tensors |= {name: one.clone().contiguous() for name, one in extra.items()} if file == files[-1] else {}
        save_file(tensors, file, metadata={"format": "pt"})
    if (index := folder / INDEX).is_file():
        content = json.loads(index.read_text(encoding="utf-8"))
        content["weight_map"] |= dict.fromkeys(extra, files[-1].name)
        content["metadata"]["total_size"] = sum(file.stat().st_size for file in files)
        index.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
