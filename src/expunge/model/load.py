"""Loading causal language models and tokenizers from folders or hub names: safetensors only, explicit dtype.

A folder may hold a PEFT adapter in place of a whole model: then the model is its base plus the adapter (see
`model.adapter`). `check` looks at a folder without loading weights, so that wrong input is answered at once.
"""

import logging
import os
import re
import reprlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from expunge.errors import InputError
from expunge.files import hashing
from expunge.files.reading import check_inside, check_regular
from expunge.model import adapter as adapters
from expunge.model import gguf, quantised
from expunge.model.adapter import Adapter, settings_of

MOST_CONTEXT = 1024
TOKENIZERS = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What the user said by flag about loading files: whether pickle weights and code from the model's repository are
    allowed, and the base of adapters where it is not the one that they name."""

    pickle: bool = False
    remote_code: bool = False
    adapter_base: str | None = None


def check(path: str, role: str, trust: Trust | None = None, weights: bool = True) -> None:
    """Raises `InputError` for a folder that is no causal language model or lacks a tokenizer or safetensors.

    Of an adapter, the adapter and its base are looked at; a tokenizer beside either will do. Names that are not
    folders are taken for hub names and left to `load_model`.
    Without `weights`, they may lack.
    """
    if _is_hub_name(path):
        return
    if file := gguf.file_of(path):
        gguf.check(file, role)
        return
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder for --{role}. Give a model folder or a hub name (owner/name).")
    if adapter := adapter_of(path, trust):
        _check_base(adapter, trust)
        return
    _check_config(folder, trust or Trust())
    _check_weights(folder, bool(trust and trust.pickle))
    if weights and not list(folder.glob("*.safetensors")):
        pickled = [file.name for file in folder.glob("*.bin")] + [file.name for file in folder.glob("*.pt")]
        if not pickled:
            raise InputError(f"{path}: the folder holds no weights (*.safetensors).")
        if not (trust and trust.pickle):
            raise InputError(
                f"{path}: only pickle weights ({pickled[0]}), which can run code when loaded. Convert them to "
                "safetensors, or pass --allow-pickle if you trust their origin."
            )
    if role != "adapter-base" and not _has_tokenizer(folder):
        raise InputError(f"{path}: the folder has no tokenizer (tokenizer.json). Save the tokenizer beside the model.")


def twins(path: str) -> list[str]:
    """The retrained models that `--retrained` names: one folder or hub name, or all folders seed-N in one folder."""
    folder = Path(path)
    several = sorted(folder.glob("seed-*"), key=lambda one: (len(one.name), one.name)) if folder.is_dir() else []
    return [str(one) for one in several if one.is_dir()] or [path]


def load_tokenizer(path: str, trust: Trust | None = None) -> Any:
    """The fast tokenizer of a model; of an adapter, the one beside it, else its base's.

    Raises `InputError` where there is none or it cannot give offsets.
    """
    if (adapter := adapter_of(path, trust)) and not _has_tokenizer(adapter.folder):
        path = adapter.base
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=bool(trust and trust.remote_code))
    except Exception as error:
        raise InputError(f"{path}: its tokenizer cannot be loaded ({_first_line(error)}).") from None
    if not tokenizer.is_fast:
        raise InputError(f"{path}: its tokenizer gives no character offsets. Convert it to a fast one.")
    tokenizer.model_max_length = int(1e9)  # windows are cut by us; the tokenizer's own warning would be wrong
    return tokenizer


def load_model(path: str, dtype: torch.dtype, device: torch.device, trust: Trust | None = None) -> PreTrainedModel:
    """A causal language model in evaluation mode; an adapter's is a `PeftModel` around its base.

    `dtype` is that of what is not quantised; the adapter's own matrices are float32. Raises `InputError` where the
    files cannot be loaded or do not hold every weight.
    """
    transformers_logging.set_verbosity_error()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # a line per layer and pass
    transformers_logging.disable_progress_bar()
    trust = trust or Trust()
    if adapter := adapter_of(path, trust):
        return adapters.attach(load_model(adapter.base, dtype, device, trust), adapter)
    scheme = quantised.scheme(load_config(path, trust))
    if scheme:
        quantised.check_library(path, scheme)
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=None if trust.pickle else True,
            trust_remote_code=trust.remote_code,
            output_loading_info=True,
            **({"device_map": {"": device}} if scheme else {}),  # quantised layers are made where they stay
        )
    except Exception as error:
        raise InputError(f"{path}: the model cannot be loaded ({_first_line(error)}).") from None
    if getattr(model, "_hf_peft_config_loaded", False):  # transformers would load its base and say nothing
        raise InputError(f"{path}: this is an adapter. Download it to a folder, and give that.")
    if info["missing_keys"]:
        raise InputError(f"{path}: the weights lack {sorted(info['missing_keys'])[0]}; the files are not whole.")
    model = model.eval() if scheme else model.to(device).eval()
    if scheme:
        quantised.check_runs(path, scheme, model)
    return model  # type: ignore[no-any-return]


def context_of(model_config: Any, asked: int | None = None) -> int:
    """Tokens a window may have: what was asked, at most what the positions allow, 1024 where nothing was asked."""
    positions = getattr(model_config, "max_position_embeddings", None) or getattr(model_config, "n_positions", None)
    most = int(positions) if positions else MOST_CONTEXT
    if asked is not None and not 8 <= asked <= most:
        raise InputError(f"--context {asked}: expected 8 to {most}, the positions that this model has.")
    return asked or min(most, MOST_CONTEXT)


def stored_dtype(path: str, trust: Trust | None = None) -> torch.dtype:
    """The dtype that a checkpoint (an adapter's base) declares; float32 where it declares none."""
    return getattr(load_config(path, trust), "dtype", None) or torch.float32


def load_config(path: str, trust: Trust | None = None) -> Any:
    """The model's configuration (of an adapter, its base's), without weights. Raises `InputError`."""
    if adapter := adapter_of(path, trust):
        path = adapter.base
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=bool(trust and trust.remote_code))
    except Exception as error:
        hint = " If it is an adapter, download it to a folder first." if _is_hub_name(path) else ""
        raise InputError(f"{path}: its configuration cannot be loaded ({_first_line(error)}).{hint}") from None


def adapter_of(path: str, trust: Trust | None = None) -> Adapter | None:
    """The adapter that a folder holds; None for whole models and hub names. Raises `InputError`."""
    trust = trust or Trust()
    return adapters.read(path, trust.adapter_base, trust.pickle) if adapters.is_adapter(path) else None


def identity(path: str) -> str:
    """Hash of the weights in a folder; the name of a hub model stands for itself."""
    files = weight_files(path)
    return hashing.file_hash(files) if files else path


def weight_files(path: str) -> list[Path]:
    """The files of a local folder that make up a model's (or an adapter's own) identity; empty for hub names."""
    folder = Path(path)
    kinds = ("*.safetensors", "*.json", "*.jinja", adapters.PICKLED)  # *.jinja: the chat template
    return [file for kind in kinds for file in sorted(folder.glob(kind))]


def quantisation(path: str) -> str | None:
    """How the weights of a local folder are quantised; None where they are not, and for hub names."""
    file = Path(path) / "config.json"
    return quantised.scheme(settings_of(file)) if file.is_file() else None


def _check_base(adapter: Adapter, trust: Trust | None) -> None:
    """Raises `InputError` where an adapter's base is missing, is an adapter itself, or has no tokenizer for it."""
    file = adapter.folder / adapters.SETTINGS
    if adapters.is_adapter(adapter.base):
        raise InputError(f"{file}: its base {adapter.base} is an adapter itself. Merge that into its own base first.")
    check(adapter.base, "adapter-base", trust)
    folders = [folder for folder in (adapter.folder, Path(adapter.base)) if folder.is_dir()]
    if not _is_hub_name(adapter.base) and not any(_has_tokenizer(folder) for folder in folders):
        raise InputError(f"{adapter.folder}: neither the adapter nor its base {adapter.base} has a tokenizer.")


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZERS)


def _check_config(folder: Path, trust: Trust) -> None:
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(f"{folder}: no config.json, so this is no model folder. Give one that save_pretrained wrote.")
    config = settings_of(file)
    family = config.get("model_type")
    if scheme := quantised.scheme(config):
        quantised.check_library(str(folder), scheme)
    if str(family) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not trust.remote_code:
        own = "It comes with code of its own: pass --trust-remote-code if you trust its origin."
        raise InputError(
            f"{file}: model type {reprlib.repr(str(family))} is no causal language model that transformers knows. "
            f"{own if 'auto_map' in config else 'Give one that is.'}"
        )


def _check_weights(folder: Path, pickle: bool) -> None:
    """Raises `InputError` where weights lie outside the folder: through a link, or by a name in the index of shards.

    The loader would follow both, and would take a shard for a pickle unless its name ends in .safetensors.
    """
    files = [*folder.glob("*.safetensors"), *(folder.glob("*.bin") if pickle else ())]
    for index in folder.glob("*.index.json"):
        names = settings_of(index).get("weight_map")
        if not isinstance(names, dict):
            raise InputError(f"{index}: no weight_map of names and files. Save the model anew.")
        for name in names.values():
            if not isinstance(name, str) or Path(name).name != name:
                raise InputError(f"{index}: names a file outside its folder. Save the model anew.")
            if not name.endswith(".safetensors") and not pickle and index.name.startswith("model.safetensors"):
                raise InputError(
                    f"{index}: names a file that is not safetensors, so it may be a pickle, which can run code when "
                    "loaded. Convert it, or pass --allow-pickle if you trust its origin."
                )
    for file in files:
        check_regular(file, "the file of weights", most=None)
        check_inside(file, folder, "the file of weights")


def _is_hub_name(path: str) -> bool:
    return not os.path.exists(path) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path) is not None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
