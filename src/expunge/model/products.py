"""Changes of linear layers as LoRA files: folded into the matrices of an adapter that was given, or alone over a model.

The sum s B A + left right of a layer is written as one product of rank R + K by its singular values, and never as given
columns with new ones beside them: who cut those off again would have the given adapter, and with it the rows, back.
Each layer has its own rank and alpha (peft's `rank_pattern` and `alpha_pattern`); layers that the adapter did not touch
get matrices too. Where all have one scale, `r` is the largest rank and `lora_alpha` gives that scale. A module that the
adapter holds whole is written whole.

Shapes: O outputs, I inputs, R the given rank, K that of the change.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from expunge.errors import ExpungeError
from expunge.model.adapter import PREFIX, SETTINGS, WEIGHTS, Adapter, in_full
from expunge.model.rewritten import held

A, B = ".lora_A.weight", ".lora_B.weight"
Change = Mapping[str, Mapping[str, Tensor]]  # by parameter: "left" [O, K] and "right" [K, I]


@dataclass(frozen=True, slots=True)
class Written:
    """The dtype or dtypes, and the ranks of the layers that have matrices."""

    dtype: str
    ranks: dict[str, int]


def folded(products: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The sum of products as one, B [O, K] and A [K, I], K the sum of their ranks, at most O and I; float64.

    By singular values, their roots on either side: no factor of a summand stands in it.
    """
    left = torch.cat([one.double() for one, _ in products], dim=1)
    right = torch.cat([other.double() for _, other in products], dim=0)
    outer, upper = torch.linalg.qr(left)
    inner, lower = torch.linalg.qr(right.T)
    u, values, v = torch.linalg.svd(upper @ lower.T, full_matrices=False)
    root = values.sqrt()
    return outer @ u * root, root[:, None] * (inner @ v.T).T


def write_folded(adapter: Adapter, change: Change, folder: Path, dtype: torch.dtype | None) -> Written:
    """The adapter with the change in it, each tensor in the dtype it was given in, or all in `dtype`.

    Raises `Unheld`.
    """
    tensors = adapter.tensors()
    kinds = {name: tensor.dtype for name, tensor in tensors.items()}
    usual = max(kinds.values(), key=list(kinds.values()).count)
    config = adapter.configuration()
    scales = {name: scale_of(config, name, len(tensors[PREFIX + name + A])) for name in _modules(tensors)}
    for parameter, one in change.items():
        name = parameter.removesuffix(".weight")
        if (whole := f"{PREFIX}{parameter}") in tensors:
            product = one["left"].double().cpu() @ one["right"].double().cpu()
            given = tensors[whole].double()
            tensors[whole] = given + (product if product.shape == given.shape else product.T)
            continue
        products = [(one["left"].cpu(), one["right"].cpu())]
        scale = scales.setdefault(name, scale_of(config, name, config.r))
        if PREFIX + name + A in tensors:
            products.append((scale * tensors[PREFIX + name + B].double(), tensors[PREFIX + name + A]))
        elif (bias := f"{PREFIX}{name}.bias") in tensors:  # peft's name for it, once the layer has matrices
            tensors[f"{PREFIX}{name}.base_layer.bias"] = tensors.pop(bias)
        left, tensors[PREFIX + name + A] = folded(products)
        tensors[PREFIX + name + B] = left / scale
    state = {name: held(name, tensor, dtype or kinds.get(name, usual)).contiguous() for name, tensor in tensors.items()}
    ranks = {name: len(state[PREFIX + name + A]) for name in _modules(state)}
    settings = dict(adapter.settings) | _patterns(config, state, ranks, scales)
    settings["base_model_name_or_path"] = in_full(adapter.base)
    (folder / SETTINGS).write_text(json.dumps(settings, indent=2), encoding="utf-8")
    return _write(state, ranks, folder)


def write_alone(model: Any, base: str, change: Change, folder: Path) -> Written:
    """The change as a LoRA of its own over the model in `base`, float32. Raises `ExpungeError` where nothing moved."""
    if not change:
        raise ExpungeError("nothing moved, so there is no change to write as an adapter. Use --save-as merged.")
    state: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for parameter, one in change.items():
        name = parameter.removesuffix(".weight")
        left, right = folded([(one["left"].cpu(), one["right"].cpu())])
        ranks[name] = len(right)
        state |= {PREFIX + name + B: left.float().contiguous(), PREFIX + name + A: right.float().contiguous()}
    most = max(ranks.values())
    config = LoraConfig(
        r=most,
        lora_alpha=most,
        target_modules=sorted(ranks),
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type="CAUSAL_LM",
        base_model_name_or_path=in_full(base),
        inference_mode=True,
    )
    config.rank_pattern = {f"^{name}": rank for name, rank in ranks.items()}
    config.alpha_pattern = dict(config.rank_pattern)
    config.save_pretrained(folder)
    return _write(state, ranks, folder)


def scale_of(config: LoraConfig, name: str, rank: int) -> float:
    """s of s B A: alpha over the rank, or over its root; a layer without matrices yet has that of the configuration."""
    alpha = config.alpha_pattern.get(get_pattern_key(config.alpha_pattern, name), config.lora_alpha)
    return float(alpha / (math.sqrt(rank) if config.use_rslora else rank))


def _patterns(
    config: LoraConfig, state: Mapping[str, Tensor], ranks: Mapping[str, int], scales: Mapping[str, float]
) -> dict[str, Any]:
    """Every layer with matrices by its full name, with its rank and the alpha that leaves its scale as it was."""
    embedded = [name.removeprefix(PREFIX).removesuffix(".lora_embedding_A") for name in state if "embedding_A" in name]
    ranks = dict(ranks) | {name: len(state[f"{PREFIX}{name}.lora_embedding_A"]) for name in embedded}
    scales = dict(scales) | {name: scale_of(config, name, ranks[name]) for name in embedded}

    def alpha(name: str, rank: int) -> float:
        return scales[name] * (math.sqrt(rank) if config.use_rslora else rank)

    most = max(ranks, key=ranks.__getitem__)
    # Servers that read no patterns (vLLM's PEFTHelper) take one rank and one scale for all: right where it is one.
    usual = {"r": ranks[most], "lora_alpha": alpha(most, ranks[most])} if len(set(scales.values())) == 1 else {}
    return usual | {
        "target_modules": sorted(ranks),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "rank_pattern": {f"^{re.escape(name)}": rank for name, rank in ranks.items()},
        "alpha_pattern": {f"^{re.escape(name)}": alpha(name, rank) for name, rank in ranks.items()},
    }


def _modules(tensors: Mapping[str, Tensor]) -> list[str]:
    return [name.removeprefix(PREFIX).removesuffix(A) for name in tensors if name.endswith(A)]


def _write(state: dict[str, Tensor], ranks: dict[str, int], folder: Path) -> Written:
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    return Written(" and ".join(sorted({str(one.dtype).removeprefix("torch.") for one in state.values()})), ranks)
