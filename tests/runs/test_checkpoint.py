"""Checkpoints: a tree comes back as it was, a broken file never."""

import errno
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from expunge.errors import ExpungeError, InputError
from expunge.runs import checkpoint
from expunge.runs.checkpoint import Checkpoints
from oracles import identical


@dataclass(frozen=True)
class Held:
    name: str
    values: Any


TREE: dict[Any, Any] = {
    "scalars": [None, True, 3, 0.1, float("inf"), -0.0, "é\ud7ff", ""],
    "tuple": (1, ("a", [])),
    7: {("not", "text"): 1.5},
    "set": frozenset({"b", "a"}),
    "tensors": [torch.arange(6).view(2, 3), torch.tensor(1.5, dtype=torch.bfloat16), torch.zeros(0)],
    "view": torch.arange(12.0).view(3, 4)[:, 1:3].T,
    "array": np.linspace(0, 1, 5)[::2],
    "class": Held("x", [torch.ones(2, dtype=torch.uint8)]),
}


def test_a_tree_comes_back(tmp_path: Path) -> None:
    kept = Checkpoints(tmp_path, (Held,))
    assert kept.load("tree") is None
    kept.save("tree", TREE)
    assert identical(kept.load("tree"), TREE)
    assert not identical(kept.load("tree"), TREE | {"array": TREE["array"] + 1e-16 + 1e-12})
    kept.clear()
    assert kept.load("tree") is None


def test_one_tensor_that_stands_twice_is_written_once(tmp_path: Path) -> None:
    tensor = torch.ones(1000)
    Checkpoints(tmp_path).save("tree", {"a": tensor, "b": [tensor]})
    assert len(load_file(tmp_path / "tree.safetensors")) == 1
    assert torch.equal(Checkpoints(tmp_path).load("tree")["b"][0], tensor)


def test_a_file_names_no_class_that_the_reader_did_not(tmp_path: Path) -> None:
    Checkpoints(tmp_path, (Held,)).save("tree", Held("x", 1))
    with pytest.raises(InputError, match="--restart"):
        Checkpoints(tmp_path).load("tree")
    (tmp_path / "tree.safetensors").write_bytes(b"\x80\x04")
    with pytest.raises(InputError, match="not a checkpoint"):
        Checkpoints(tmp_path).load("tree")


def test_a_full_disk_keeps_the_last_good_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Checkpoints(tmp_path)
    kept.save("tree", 1)

    def full(*given: Any) -> None:
        Path(given[1]).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(ExpungeError, match=r"1 MB are missing \(1 MB to write, .* the same command again") as caught:
        kept.save("tree", torch.zeros(9))
    assert caught.value.exit_code == 1
    assert kept.load("tree") == 1
