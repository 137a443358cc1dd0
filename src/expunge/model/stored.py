"""What a folder's files of weights hold, by their headers alone: names, dtypes and shapes, and whether all is there.

Which files those are is transformers' rule: `model.safetensors`, else the shards that `model.safetensors.index.json`
names. Everything else in the folder (weights in other formats, of an optimiser, of another variant) is not read.
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import torch
from safetensors import safe_open

from expunge.errors import InputError
from expunge.files.reading import read_json

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
LONGEST_HEADER = 100 << 20  # bytes; what safetensors itself allows
POINTER = b"version https://git-lfs.github.com/spec/"
LEFT_OVER = re.compile(r"(^|\.)(masked_bias|inv_freq|position_ids)$")
KINDS = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}  # what can move
ELSEWHERE = {
    "*/adapter_config.json": "that of an adapter one folder further down: give that folder",
    "global_step*": "a checkpoint of DeepSpeed: make one model of it with its zero_to_fp32.py",
    "pytorch_model_fsdp*": "a checkpoint of FSDP: make one model of it with accelerate merge-weights",
    "*.distcp": "a part of a distributed checkpoint: make one model of it with accelerate merge-weights",
    "*.safetensors": "of another name, which transformers does not read",
    "*.pth": "in another form: convert it with the script of its family in transformers",
}


class Loaded(TypedDict):
    """What transformers says of loading: names of tensors, and of those of another shape both shapes."""

    missing_keys: Iterable[str]
    unexpected_keys: Iterable[str]
    mismatched_keys: Iterable[tuple[str, Sequence[int], Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor in a file: its name, safetensors' name of its dtype, and its shape."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Numbers in it."""
        count = 1
        for side in self.shape:
            count *= side
        return count


def header(file: Path) -> dict[str, Stored]:
    """The tensors of one file by name. Raises `InputError` for a file that is none of safetensors, or cut off."""
    check_pointer(file)
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if not 2 <= length <= min(LONGEST_HEADER, size - 8):
            raise InputError(f"{file}: no file of safetensors, or cut off ({size:,} bytes). Copy or download it again.")
        raw = content.read(length)
    try:
        entries = json.loads(raw)
        entries.pop("__metadata__", None)
        found = {name: Stored(file, name, str(one["dtype"]), tuple(one["shape"])) for name, one in entries.items()}
        end = 8 + length + max((one["data_offsets"][1] for one in entries.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError):
        raise InputError(f"{file}: no file of safetensors. Copy or download it again.") from None
    if end > size:
        raise InputError(f"{file}: cut off: {size:,} of {end:,} bytes are there. Copy or download it again.")
    return found


def check_pointer(file: Path) -> None:
    """Raises `InputError` for what git LFS leaves in the place of a large file that was not fetched."""
    with file.open("rb") as content:
        if content.read(len(POINTER)) == POINTER:
            raise InputError(
                f"{file}: a pointer of git LFS and not the file itself. Fetch it: git lfs install, then git lfs pull "
                "in the repository, or download the model with hf download."
            )


def files(folder: Path) -> list[Path]:
    """The files that hold the model. Raises `InputError` where one is missing or it cannot be told which they are."""
    single, index = folder / SINGLE, folder / INDEX
    shards = sorted(set(_map(index).values())) if index.is_file() else []
    if single.is_file() and shards and SINGLE not in shards:
        raise InputError(
            f"{folder}: both {SINGLE} and {INDEX} are there, and the index names other files. One is a left-over of an "
            "earlier saving: remove the one that is not the model."
        )
    if lost := [name for name in shards if not (folder / name).is_file()]:
        raise InputError(
            f"{index}: {len(lost)} of {len(shards)} files that it names are not there ({lost[0]}). Copy or download "
            "them too."
        )
    if not single.is_file() and not shards and (parts := sorted(folder.glob("model-*-of-*.safetensors"))):
        raise InputError(
            f"{folder}: {len(parts)} parts of a model and no {INDEX}, which says what they hold ({parts[0].name}). "
            "Copy or download the index too."
        )
    return [folder / name for name in shards] or ([single] if single.is_file() else [])


def tensors(folder: Path) -> dict[str, Stored]:
    """All tensors of the model by name. Raises `InputError` where the files are not whole."""
    found: dict[str, Stored] = {}
    for file in files(folder):
        found |= header(file)
    return found


def pickled(folder: Path) -> dict[str, Stored]:
    """The same of pickle weights, for a model that was loaded from them: names, dtypes and shapes, no numbers."""
    names = {dtype: name for name, dtype in KINDS.items()}
    found = {}
    for file in sorted(folder.glob("pytorch_model*.bin")):
        for name, one in torch.load(file, map_location="meta", mmap=True, weights_only=True).items():
            found[name] = Stored(file, name, names.get(one.dtype, str(one.dtype)), tuple(one.shape))
    return found


def read(one: Stored, rows: int | None = None) -> torch.Tensor:
    """A tensor, or its first rows."""
    if one.file.suffix != ".safetensors":
        found: torch.Tensor = torch.load(one.file, map_location="cpu", mmap=True, weights_only=True)[one.name]
        return found if rows is None else found[:rows]
    with safe_open(one.file, framework="pt") as file:
        if rows is None:
            return file.get_tensor(one.name)  # type: ignore[no-any-return]
        return file.get_slice(one.name)[: min(rows, one.shape[0])]  # type: ignore[no-any-return]


def check(folder: Path) -> None:
    """Raises `InputError` for files that do not hold a whole model which could move; nothing where there is none."""
    found = tensors(folder)
    if files(folder) and not found:
        raise InputError(f"{folder}: its weights are empty: {SINGLE} has no tensors. Save the model anew.")
    config = folder / "config.json"
    odd = next((name for name, one in found.items() if name.endswith(".weight") and one.dtype not in KINDS), None)
    settings = read_json(config, "settings", "Save anew.", endless=True) if odd else None
    if odd and not (isinstance(settings, dict) and "quantization_config" in settings):
        raise InputError(
            f"{found[odd].file}: {odd} is stored as {found[odd].dtype}, so it is quantised, and config.json does not "
            "say how (quantization_config). Give the model in bfloat16, float16 or float32."
        )


def instead(folder: Path) -> str:
    """What lies in a folder in place of weights that can be read, with the remedy; empty where nothing does."""
    for pattern, what in ELSEWHERE.items():
        if file := next(iter(sorted(folder.glob(pattern))), None):
            return f"; {file.relative_to(folder)} is {what}"
    return ""


def dtype(found: Mapping[str, Stored]) -> torch.dtype | None:
    """The dtype of most of the numbers; None where none is a floating-point number that could move."""
    counts: Counter[str] = Counter()
    for one in found.values():
        if one.dtype in KINDS:
            counts[one.dtype] += one.size
    return KINDS[counts.most_common(1)[0][0]] if counts else None


def check_loaded(path: str, model: "PreTrainedModel", info: Loaded) -> None:
    """Raises `InputError` for tensors that lack, that the model has no place for, or that have another shape.

    Masks and tables that older versions of transformers saved, and newer ones make anew, are let through.
    """
    name, made_anew = type(model).__name__, [f".{buffer}" for buffer, _ in model.named_buffers()]
    lacking, bent = sorted(info["missing_keys"]), sorted(info["mismatched_keys"])
    foreign = sorted(
        key
        for key in info["unexpected_keys"]
        if not LEFT_OVER.search(key) and not any(buffer.endswith(f".{key}") for buffer in made_anew)
    )
    if prefix := _wrapped_by(foreign, lacking):
        raise InputError(
            f"{path}: the names of its tensors have {prefix!r} too much ({foreign[0]}), as wrappers leave them "
            "(torch.compile, FSDP, DDP, peft). Rename them without it, or save the model that was wrapped."
        )
    if lacking:
        tied = " (if the ends are tied, config.json must say tie_word_embeddings)" if "head" in lacking[0] else ""
        raise InputError(
            f"{path}: the weights lack {_listed(lacking)}{tied}; the files are not whole, or not of {name}. Save or "
            "download the model anew."
        )
    if bent:
        _, here, wanted = bent[0]
        raise InputError(
            f"{path}: {_listed([one[0] for one in bent])} has the shape {tuple(here)}, and config.json asks for "
            f"{tuple(wanted)}. Give the config.json that belongs to the weights."
        )
    if foreign:
        raise InputError(
            f"{path}: the weights hold {_listed(foreign)}, for which {name} has no place: a head of a reward model or "
            "classifier, an encoder, an adapter? Give the causal language model itself, without them."
        )


def _listed(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _wrapped_by(unexpected: Iterable[str], missing: Iterable[str]) -> str | None:
    """What stands too much in names of tensors ("module.", "_orig_mod."), if names without it are those that lack."""
    wanted = set(missing)
    for name in sorted(unexpected):
        for end in (place for place, letter in enumerate(name, start=1) if letter == "."):
            if name[end:] in wanted:
                return name[:end]
        parts = name.split(".")
        for place, part in enumerate(parts):
            if ".".join(parts[:place] + parts[place + 1 :]) in wanted:
                return f"{part}."
    return None


def _map(index: Path) -> dict[str, str]:
    content = read_json(index, "the index of weights", "Save the model anew.")
    found = content.get("weight_map") if isinstance(content, dict) else None
    return found if isinstance(found, dict) else {}
