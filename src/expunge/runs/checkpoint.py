"""Checkpoints: what a run must remember to go on where it was, as safetensors files without pickle.

A tree of plain values, arrays, tensors and dataclasses becomes one file: the tensors as they are, everything else as
JSON in its header. Only dataclasses of the types that the reader names are made again, so a file can name no code. A
file is written beside its place, flushed to disk and renamed, so that there is always the last good one. Tensors keep
shape and dtype and are contiguous.
"""

import errno
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from expunge.errors import InputError
from expunge.runs import distributed
from expunge.runs.outputs import full_disk_explained

SHARE = 0.05  # of the time, at most, that goes into writing checkpoints that are only offered
TREE = "tree"
SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "frozenset": frozenset}


class Checkpoints:
    """The checkpoints of one run, by name, in a folder; `types` are the dataclasses that may stand in them."""

    def __init__(self, folder: Path, types: Sequence[type[object]] = ()) -> None:
        self.folder, self._types = folder, {kind.__name__: kind for kind in types}
        self._not_before = 0.0

    def below(self, name: str) -> "Checkpoints":
        """Those of a part of the run, in a folder of their own."""
        if distributed.main_process():
            (self.folder / name).mkdir(exist_ok=True, mode=0o700)
        return Checkpoints(self.folder / name, tuple(self._types.values()))

    def load(self, name: str) -> Any:
        """What was saved under the name, None where nothing was. Raises `InputError` for a file that is not whole.

        All processes of a run ask together, so that they agree on whether there is anything.
        """
        return self.read(name) if distributed.from_main(self._file(name).is_file) else None

    def read(self, name: str) -> Any:
        """The same, by one process alone."""
        file = self._file(name)
        if not file.is_file():
            return None
        try:
            with safe_open(file, framework="pt") as stored:
                # Copied to where tensors begin in memory: from any other place products differ in their last bits.
                tensors = {key: stored.get_tensor(key).clone() for key in stored.keys()}  # noqa: SIM118 (not a mapping)
                return _unpack(json.loads(stored.metadata()[TREE]), tensors, self._types)
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise InputError(f"{file}: not a checkpoint ({type(error).__name__}). Begin anew with --restart.") from None

    def save(self, name: str, value: object) -> None:
        """Writes it, in place of the one before; of several processes the main one does.

        Raises `ExpungeError` where the disk is full; the old one is kept.
        """
        if not distributed.main_process():
            return
        tensors: dict[str, Tensor] = {}
        tree = json.dumps(_pack(value, tensors, self._types))
        size = len(tree) + sum(tensor.nbytes for tensor in tensors.values())
        began, part = time.monotonic(), self._file(name).with_suffix(".part")
        with full_disk_explained(self.folder, size):
            if (free := shutil.disk_usage(self.folder).free) < size:
                raise OSError(errno.ENOSPC, f"{free} bytes free")
            save_file(tensors, part, {TREE: tree})
            part.chmod(0o600)
            with part.open("rb") as written:
                os.fsync(written.fileno())
            part.replace(self._file(name))
        now = time.monotonic()
        self._not_before = now + (now - began) / SHARE

    def offer(self, name: str, value: Callable[[], object]) -> None:
        """Saves it where little of the time has gone into saving so far."""
        if distributed.main_process() and time.monotonic() >= self._not_before:
            self.save(name, value())

    def clear(self) -> None:
        """Removes them all, and their folder."""
        if distributed.main_process():
            shutil.rmtree(self.folder)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _pack(value: object, tensors: dict[str, Tensor], types: Mapping[str, type[object]]) -> object:
    """A JSON tree; tensors go to `tensors` under numbers. Everything but plain scalars is a list that says its kind."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, np.generic):
        return _pack(value.item(), tensors, types)
    if isinstance(value, Tensor | np.ndarray):
        return ["tensor" if isinstance(value, Tensor) else "array", _held(value, tensors)]
    if isinstance(value, list | tuple | frozenset):
        name = next(name for name, kind in SEQUENCES.items() if isinstance(value, kind))
        parts = sorted(value) if name == "frozenset" else value
        return [name, [_pack(part, tensors, types) for part in parts]]
    if isinstance(value, Mapping):
        return ["mapping", [[_pack(key, tensors, types), _pack(part, tensors, types)] for key, part in value.items()]]
    assert is_dataclass(value) and type(value).__name__ in types, f"{type(value).__name__} is not of the types"
    held = {field.name: _pack(getattr(value, field.name), tensors, types) for field in fields(value)}
    return ["class", type(value).__name__, held]


def _held(value: Tensor | NDArray[np.generic], tensors: dict[str, Tensor]) -> str:
    """The number of the tensor among those to write, where one that is there twice stands once."""
    given = torch.from_numpy(np.ascontiguousarray(value)) if isinstance(value, np.ndarray) else value.detach()
    tensor = given.cpu().contiguous()
    if tensor.untyped_storage().nbytes() != tensor.nbytes:
        tensor = tensor.clone()  # a view; the file format knows none
    for number, other in tensors.items():
        if (other.data_ptr(), other.shape, other.dtype) == (tensor.data_ptr(), tensor.shape, tensor.dtype):
            return number
    tensors[str(len(tensors))] = tensor
    return str(len(tensors) - 1)


def _unpack(tree: Any, tensors: Mapping[str, Tensor], types: Mapping[str, type[Any]]) -> Any:
    if not isinstance(tree, list):
        return tree
    kind, content = tree[0], tree[1]
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "mapping":
        return {_unpack(key, tensors, types): _unpack(part, tensors, types) for key, part in content}
    if kind == "class":
        return types[content](**{name: _unpack(part, tensors, types) for name, part in tree[2].items()})
    return SEQUENCES[kind](_unpack(part, tensors, types) for part in content)
