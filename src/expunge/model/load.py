"""Loading causal language models and tokenizers from folders or hub names: safetensors only, explicit dtype.

`check` looks at a folder without loading weights, so that wrong input is answered at once.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from expunge.errors import InputError

MOST_CONTEXT = 1024
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What the user allowed by flag when files are loaded: pickle weights, code from the model's repository."""

    pickle: bool = False
    remote_code: bool = False


def check(path: str, role: str, trust: Trust | None = None) -> None:
    """Raises `InputError` for a folder that is no causal language model or lacks a tokenizer or safetensors.

    Names that are not folders are taken for hub names and left to `load_model`.
    """
    if _is_hub_name(path):
        return
    folder = Path(path)
    if not folder.is_dir():
        raise InputError(f"{path}: no such folder for --{role}. Give a model folder or a hub name (owner/name).")
    if (folder / "adapter_config.json").is_file():
        raise InputError(f"{path}: this is a PEFT adapter, not a whole model. Merge it into its base first.")
    _check_config(folder, trust or Trust())
    if not list(folder.glob("*.safetensors")):
        pickled = [file.name for file in folder.glob("*.bin")] + [file.name for file in folder.glob("*.pt")]
        if not pickled:
            raise InputError(f"{path}: the folder holds no weights (*.safetensors).")
        if not (trust and trust.pickle):
            raise InputError(
                f"{path}: only pickle weights ({pickled[0]}), which can run code when loaded. Convert them to "
                "safetensors, or pass --allow-pickle if you trust their origin."
            )
    if not any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        raise InputError(f"{path}: the folder has no tokenizer (tokenizer.json). Save the tokenizer beside the model.")


def load_tokenizer(path: str, trust: Trust | None = None) -> Any:
    """The fast tokenizer of a model. Raises `InputError` where there is none or it cannot give offsets."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=bool(trust and trust.remote_code))
    except Exception as error:
        raise InputError(f"{path}: its tokenizer cannot be loaded ({_first_line(error)}).") from None
    if not tokenizer.is_fast:
        raise InputError(f"{path}: its tokenizer gives no character offsets. Convert it to a fast one.")
    tokenizer.model_max_length = int(1e9)  # windows are cut by us; the tokenizer's own warning would be wrong
    return tokenizer


def load_model(path: str, dtype: torch.dtype, device: torch.device, trust: Trust | None = None) -> PreTrainedModel:
    """A causal language model in evaluation mode.

    Raises `InputError` where the files cannot be loaded or do not hold every weight.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    trust = trust or Trust()
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            path,
            dtype=dtype,
            use_safetensors=None if trust.pickle else True,
            trust_remote_code=trust.remote_code,
            output_loading_info=True,
        )
    except Exception as error:
        raise InputError(f"{path}: the model cannot be loaded ({_first_line(error)}).") from None
    if info["missing_keys"]:
        raise InputError(f"{path}: the weights lack {sorted(info['missing_keys'])[0]}; the files are not whole.")
    model = model.to(device).eval()
    return model  # type: ignore[no-any-return]


def context_of(model_config: Any, asked: int | None = None) -> int:
    """Tokens a window may have: what was asked, at most what the positions allow, 1024 where nothing was asked."""
    positions = getattr(model_config, "max_position_embeddings", None) or getattr(model_config, "n_positions", None)
    most = int(positions) if positions else MOST_CONTEXT
    if asked is not None and not 8 <= asked <= most:
        raise InputError(f"--context {asked}: expected 8 to {most}, the positions that this model has.")
    return asked or min(most, MOST_CONTEXT)


def stored_dtype(path: str, trust: Trust | None = None) -> torch.dtype:
    """The dtype that a checkpoint declares; float32 where it declares none."""
    return getattr(load_config(path, trust), "dtype", None) or torch.float32


def load_config(path: str, trust: Trust | None = None) -> Any:
    """The model's configuration, without weights. Raises `InputError`."""
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=bool(trust and trust.remote_code))
    except Exception as error:
        raise InputError(f"{path}: its configuration cannot be loaded ({_first_line(error)}).") from None


def weight_files(path: str) -> list[Path]:
    """The files of a local model folder that make up its identity; empty for hub names."""
    folder = Path(path)
    kinds = ("*.safetensors", "*.json", "*.jinja")  # the last: the chat template
    return [file for kind in kinds for file in sorted(folder.glob(kind))]


def _check_config(folder: Path, trust: Trust) -> None:
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(f"{folder}: no config.json, so this is no model folder. Give one that save_pretrained wrote.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        family = config.get("model_type")
    except (ValueError, AttributeError):
        raise InputError(f"{file}: not a JSON object.") from None
    if str(family) not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and not trust.remote_code:
        raise InputError(f"{file}: model type {str(family)!r} is no causal language model that transformers knows.")


def _is_hub_name(path: str) -> bool:
    return not Path(path).exists() and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", path) is not None


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
