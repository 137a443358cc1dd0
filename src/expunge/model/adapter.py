"""PEFT adapters given as models: the original is the base *plus* the adapter, and the adapter's own matrices move.

Only LoRA (with DoRA, rank-stabilised scaling, and whole modules that it trains): other kinds have no matrices beside
the base's layers. Only the adapter at the top of the folder is read, which peft calls "default". What is written has
the keys, shapes and dtypes that were given, and the very configuration.
"""

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from expunge.errors import InputError, first_line
from expunge.files.reading import check_inside, check_name, check_regular, read_json
from expunge.model import sound, stored
from expunge.model.rewritten import held

SETTINGS, WEIGHTS, PICKLED = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX = "base_model.model."
NAME = "default"
SUMS = (True, False, None, "gaussian", "eva", "orthogonal")  # inits that leave the base's weights as they are


@dataclass(frozen=True, slots=True)
class Adapter:
    """A folder with an adapter, what its configuration says, and where its base lies (a folder or a hub name)."""

    folder: Path
    settings: Mapping[str, Any]
    base: str

    @property
    def pickled(self) -> bool:
        return not (self.folder / WEIGHTS).is_file()

    @property
    def trains_whole_modules(self) -> bool:
        """Whether it holds whole modules or biases in place of the base's, beside its matrices."""
        others = ("modules_to_save", "trainable_token_indices")
        return any(self.settings.get(key) for key in others) or self.settings.get("bias", "none") != "none"

    @property
    def no_sum(self) -> str:
        """Why its layers are not base plus s B A, so that no change can be folded in; empty: they are."""
        odd = [key for key in ("use_dora", "target_parameters", "layer_replication") if self.settings.get(key)]
        init = self.settings.get("init_lora_weights", True)
        if not odd and init not in SUMS:
            odd = [f"init_lora_weights: {init}"]
        return odd[0] if odd else ""

    def configuration(self) -> LoraConfig:
        """Its configuration for peft, set to train."""
        try:
            config = LoraConfig.from_pretrained(str(self.folder))
        except Exception as error:
            file = self.folder / SETTINGS
            raise InputError(f"{file}: peft refuses it ({first_line(error)}). Save the adapter anew.") from None
        config.inference_mode = False
        config.base_model_name_or_path = None
        return config

    def tensors(self) -> dict[str, torch.Tensor]:
        """What its file holds, by peft's names."""
        if self.pickled:
            return torch.load(self.folder / PICKLED, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
        return load_file(self.folder / WEIGHTS)


def is_adapter(path: str | None) -> bool:
    """Whether a path is a folder that holds an adapter."""
    return bool(path) and (Path(str(path)) / SETTINGS).is_file()


def read(path: str, base: str | None, pickle: bool) -> Adapter:
    """The adapter in a folder, `base` in place of the base it names. Raises `InputError` for what cannot be used."""
    file = Path(path) / SETTINGS
    settings = settings_of(file)
    kind, task = str(settings.get("peft_type")), settings.get("task_type")
    if kind != "LORA":
        raise InputError(
            f"{file}: a {kind} adapter has no LoRA matrices beside the base's layers, so nothing of its own can be "
            "moved here. Merge it into its base where peft can (merge_and_unload), and give the whole model."
        )
    if task not in (None, "CAUSAL_LM"):
        raise InputError(f"{file}: the adapter is for {task}, not for a causal language model (CAUSAL_LM).")
    if not (Path(path) / WEIGHTS).is_file():
        if not (Path(path) / PICKLED).is_file():
            raise InputError(f"{path}: the adapter has no weights ({WEIGHTS}).")
        if not pickle:
            raise InputError(
                f"{path}: only pickle weights ({PICKLED}), which can run code when loaded. Convert them to "
                "safetensors, or pass --allow-pickle if you trust their origin."
            )
    for name in (WEIGHTS, PICKLED):
        if os.path.lexists(Path(path) / name):
            check_regular(Path(path) / name, "the adapter's file of weights", most=None)
            check_inside(Path(path) / name, Path(path), "the adapter's file of weights")
            stored.check_pointer(Path(path) / name)
    if (Path(path) / WEIGHTS).is_file() and not stored.header(Path(path) / WEIGHTS):
        raise InputError(
            f"{Path(path) / WEIGHTS}: the adapter is empty: its file has no tensors. Training with ZeRO-3 or FSDP "
            "leaves that where weights were not gathered; save the adapter anew."
        )
    return Adapter(Path(path), settings, _base(file, settings, base))


def settings_of(file: Path) -> dict[str, object]:
    """A file of settings beside weights. Raises `InputError` for what is no strict JSON object."""
    settings = read_json(file, "the file of settings", "Save the model anew.", endless=True)
    if not isinstance(settings, dict):
        raise InputError(f"{file}: not a JSON object, found {type(settings).__name__}. Save the model anew.")
    return settings


def _base(file: Path, settings: Mapping[str, object], given: str | None) -> str:
    """Where the base lies: as given, else the folder named (absolute, here, beside the adapter), else the name."""
    if given:
        return given
    named, revision = str(settings.get("base_model_name_or_path") or ""), settings.get("revision")
    check_name(named, f"{file}: base_model_name_or_path")
    remedy = "Name the base with --adapter-base FOLDER."
    if not named:
        raise InputError(f"{file}: no base is named (base_model_name_or_path). {remedy}")
    for folder in (Path(named), file.parent / named):
        if folder.is_dir():
            return str(folder)
    if named.startswith((".", "/", "~")) or named.count("/") != 1:
        raise InputError(f"{file}: its base {named} does not exist here. {remedy}")
    if revision not in (None, "main"):
        raise InputError(f"{file}: its base is {named} at revision {revision}. Download that revision. {remedy}")
    return named


def attach(base: PreTrainedModel, adapter: Adapter) -> PeftModel:
    """Base plus adapter, whose own parameters are trainable and float32. Raises `InputError` where they do not fit."""
    tensors = adapter.tensors()
    ends = [f".{name}." for name in _ends(base)]  # which it may hold beside its own matrices, and more than once
    try:
        wrapped = fresh(base, adapter)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of peft: what matters of them is checked below
            result = wrapped.load_adapter(str(adapter.folder), NAME, is_trainable=True, torch_device="cpu")
    except Exception as error:
        mismatch = next((line.strip() for line in str(error).splitlines() if "size mismatch" in line), "")
        reason = mismatch[:200] or first_line(error)
        raise InputError(f"{adapter.folder}: the adapter does not fit {adapter.base} ({reason}).") from None
    lacking = [*result.missing_keys, *sorted(get_state(wrapped, adapter).keys() - tensors.keys())]
    foreign = [key for key in result.unexpected_keys if "lora_" in key or not any(name in key for name in ends)]
    if lacking or foreign:
        named = f"lack {lacking[0]} (its names are like {min(tensors)})" if lacking else ""
        what = named or f"hold {foreign[0]}, which the base has no place for"
        raise InputError(
            f"{adapter.folder}: the adapter's weights {what}. Is {adapter.base} the base it was trained on?"
        )
    if name := sound.first_unfinished(iter(tensors.items())):
        raise InputError(
            f"{adapter.folder}: {name} holds values that are not finite. Give the adapter before it broke."
        )
    with torch.no_grad():
        for tensor in wrapped.parameters():
            if tensor.requires_grad:
                tensor.data = tensor.data.float()
    return wrapped.eval()


def fresh(base: PreTrainedModel, adapter: Adapter) -> PeftModel:
    """A new, untrained adapter of the same kind around a base."""
    _fit_vocabulary(base, adapter.tensors())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of peft, about settings that were given
        return get_peft_model(base, adapter.configuration(), adapter_name=NAME)


def _fit_vocabulary(base: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> None:
    """As many rows in the base's embeddings as the adapter holds, where its fine-tune added tokens."""
    names = _ends(base)
    rows = [len(tensors[f"{PREFIX}{name}.weight"]) for name in names if f"{PREFIX}{name}.weight" in tensors]
    rows += [tensors[key].shape[1] for name in names if (key := f"{PREFIX}{name}.lora_embedding_A") in tensors]
    if rows and rows[0] != base.get_input_embeddings().weight.shape[0]:
        base.resize_token_embeddings(rows[0], mean_resizing=False)


def _ends(base: PreTrainedModel) -> list[str]:
    """Names of the embeddings and of the output head."""
    ends = {base.get_input_embeddings(), base.get_output_embeddings()}
    return [name for name, module in base.named_modules() if module in ends]


def get_state(model: PeftModel, adapter: Adapter) -> dict[str, torch.Tensor]:
    """The adapter's tensors as they are now, by the names that its file has."""
    return get_peft_model_state_dict(  # type: ignore[no-any-return]
        model, adapter_name=NAME, save_embedding_layers=_holds_embeddings(model, adapter)
    )


def _holds_embeddings(model: PeftModel, adapter: Adapter) -> bool:
    """Whether its file holds the base's embeddings beside its own matrices, as after a change of vocabulary."""
    own = get_peft_model_state_dict(model, adapter_name=NAME, save_embedding_layers=False)
    return any("embed" in key or "lm_head" in key or "wte" in key for key in adapter.tensors().keys() - own.keys())


def write(model: PeftModel, adapter: Adapter, folder: Path, dtype: torch.dtype | None) -> str:
    """Writes the adapter as it is now, each tensor in the dtype it was given in (or all in `dtype`); returns the dtype.
    Raises `Unheld`.

    The configuration is the one that was given; only a base that was named relative to a folder is named in full.
    """
    given = {name: tensor.dtype for name, tensor in adapter.tensors().items()}
    state = {
        name: held(name, tensor.detach().cpu(), dtype or given.get(name, tensor.dtype)).clone().contiguous()
        for name, tensor in get_state(model, adapter).items()
    }
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    lasting = Path(adapter.base).is_absolute() or not Path(adapter.base).is_dir()
    if lasting and adapter.settings.get("base_model_name_or_path") == adapter.base:
        shutil.copy(adapter.folder / SETTINGS, folder / SETTINGS)
    else:
        settings = dict(adapter.settings) | {"base_model_name_or_path": in_full(adapter.base)}
        (folder / SETTINGS).write_text(json.dumps(settings, indent=2, sort_keys=True), encoding="utf-8")
    return " and ".join(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in state.values()}))


def in_full(path: str) -> str:
    """A folder's absolute path; a hub name as it is."""
    return str(Path(path).resolve()) if path and Path(path).is_dir() else path
