"""Quantised checkpoints: which they are, and whether the library that runs them is there.

Their weights cannot move; they are accepted under an adapter, whose matrices are not quantised.
"""

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch

from expunge.errors import InputError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

LIBRARIES = {
    "bitsandbytes": ("bitsandbytes",),
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel",),
    "hqq": ("hqq",),
    "torchao": ("torchao",),
}


def scheme(config: "PreTrainedConfig | Mapping[str, object]") -> str | None:
    """How the weights are quantised, from a configuration (object or plain values); None where they are not."""
    found = config.get("quantization_config") if isinstance(config, Mapping) else None
    found = found or getattr(config, "quantization_config", None)
    if not found:
        return None
    plain = found if isinstance(found, Mapping) else found.to_dict() if hasattr(found, "to_dict") else {}
    bits = plain.get("load_in_4bit") or plain.get("load_in_8bit")
    name = str(getattr(plain.get("quant_method"), "value", plain.get("quant_method") or ""))
    return name or ("bitsandbytes" if bits else "an unnamed scheme")


def check_library(path: str, name: str) -> None:
    """Raises `InputError` where a scheme is unknown or its library is not installed."""
    if name not in LIBRARIES:
        raise InputError(
            f"{path}: its weights are quantised by {name}, which is not supported under an adapter "
            f"(known: {', '.join(LIBRARIES)}). Give the unquantised model."
        )
    missing = [library for library in LIBRARIES[name] if importlib.util.find_spec(library) is None]
    if missing:
        raise InputError(
            f"{path}: its weights are quantised by {name}, and {missing[0]} is not installed. Install it "
            f"(pip install {missing[0]}; it may need CUDA), or give the unquantised model."
        )


@torch.no_grad()
def check_runs(path: str, name: str, model: "PreTrainedModel") -> None:
    """One forward pass over two tokens. Raises `InputError` where the kernels do not run on this device."""
    try:
        finite = bool(torch.isfinite(model(torch.tensor([[0, 1]], device=model.device)).logits).all())
    except Exception as error:
        reason = first_line(error)
        raise InputError(
            f"{path}: {name} does not run on {model.device} ({reason}). Use CUDA, or the unquantised model."
        ) from None
    if not finite:
        raise InputError(f"{path}: {name} gives no finite numbers on {model.device}. Use the unquantised model.")
