"""Arithmetic on the weights as the model uses them: full tensors, or of a LoRA the product s B A, never B and A.

B and A of two trainings mean nothing when they are mixed: B1 A1 + B2 A2 is not (B1 + B2)(A1 + A2). A sum of products is
held as the product of the factors side by side, [B1 B2] [A1; A2], and written back as the nearest product of the rank
that the adapter has, by singular values.

Shapes: O outputs, I inputs, R the adapter's rank, K the rank of a sum.
"""

from collections.abc import Mapping, Sequence

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from expunge.errors import InputError

Effective = Mapping[str, tuple[Tensor, ...]]  # a full tensor as (W,), a product as (left [O, K], right [K, I])


def read(model: nn.Module, movable: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
    """The effective weights of what may move: of a LoRA its layers by name. Raises `InputError` for other adapters."""
    layers = _lora_layers(model, movable)
    found: dict[str, tuple[Tensor, ...]] = {}
    taken: set[str] = set()
    for name, layer in layers.items():
        for adapter, (left, right) in layer.items():
            if (left.name in movable) != (right.name in movable):
                raise InputError(
                    f"{name}: only one factor of this adapter may move, so its product cannot. Use another --subspace."
                )
            if left.name in movable:
                scaled = left.value.detach() * left.scale
                found[f"{name}.{adapter}"] = (scaled.clone(), right.value.detach().clone())
                taken |= {left.name, right.name}
    rest = {name: (tensor.detach().clone(),) for name, tensor in movable.items() if name not in taken}
    return found | rest


def mixed(parts: Sequence[tuple[float, Effective]]) -> dict[str, tuple[Tensor, ...]]:
    """The weighted sum of effective weights of one model. Products of zero are left out, so their rank does not grow.

    Sums of full tensors are made in float64, so that what cancels cancels.
    """
    summed: dict[str, tuple[Tensor, ...]] = {}
    for name, first in parts[0][1].items():
        values = [(weight, effective[name]) for weight, effective in parts]
        if len(first) == 1:
            total = sum(weight * value[0].double() for weight, value in values)
            assert isinstance(total, Tensor)
            summed[name] = (total.to(first[0].dtype),)
            continue
        products = [(weight * left, right) for weight, (left, right) in values if weight and bool(left.any())]
        lefts, rights = zip(*(products or [(torch.zeros_like(first[0]), first[1])]), strict=True)
        summed[name] = (torch.cat(lefts, dim=1), torch.cat(rights, dim=0))
    return summed


@torch.no_grad()
def write(model: nn.Module, movable: Mapping[str, Tensor], effective: Effective) -> float:
    """Puts effective weights in place; returns the largest share of a product's norm that its rank did not hold.

    A product that fits is written as its factors are, one that is too large as its `R` largest singular values.
    """
    lost = 0.0
    for name, layer in _lora_layers(model, movable).items():
        for adapter, (left, right) in layer.items():
            if f"{name}.{adapter}" not in effective:
                continue
            own_left, own_right = effective[f"{name}.{adapter}"]
            new_left, new_right, share = _within_rank(own_left, own_right, right.value.shape[0])
            left.value.copy_(new_left / left.scale)
            right.value.copy_(new_right)
            lost = max(lost, share)
    for name, tensor in movable.items():
        if name in effective:
            tensor.copy_(effective[name][0])
    return lost


def _within_rank(left: Tensor, right: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The product left right [O, I] in factors of so many columns, and the share of its Frobenius norm that is lost.

    Singular values come from a K x K core between the orthogonal parts of both factors; O x I is never made.
    """
    missing = rank - left.shape[1]
    if missing >= 0:  # columns of zeros; the other factor's rows beside them stay free to learn
        rows = torch.zeros(missing, right.shape[1], dtype=right.dtype, device=right.device)
        columns = torch.zeros(left.shape[0], missing, dtype=left.dtype, device=left.device)
        return torch.cat([left, columns], dim=1), torch.cat([right, rows], dim=0), 0.0
    outer, upper = torch.linalg.qr(left.double())
    inner, lower = torch.linalg.qr(right.double().T)
    u, values, v = torch.linalg.svd(upper @ lower.T)
    root = values[:rank].sqrt()
    whole = float(values.square().sum())
    share = float((values[rank:].square().sum() / whole).sqrt()) if whole else 0.0
    made_left, made_right = outer @ u[:, :rank] * root, root[:, None] * (inner @ v[:rank].T).T
    return made_left.to(left.dtype), made_right.to(right.dtype), share


class _Factor:
    """A LoRA's factor: its parameter, that one's name in the model, and the scale of the product."""

    __slots__ = ("name", "scale", "value")

    def __init__(self, value: Tensor, name: str, scale: float) -> None:
        self.value, self.name, self.scale = value, name, scale


def _lora_layers(model: nn.Module, movable: Mapping[str, Tensor]) -> dict[str, dict[str, tuple[_Factor, _Factor]]]:
    """Factors B and A by layer and adapter. Raises `InputError` for adapters whose weights are no such product."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found: dict[str, dict[str, tuple[_Factor, _Factor]]] = {}
    for name, module in model.named_modules():
        if not isinstance(module, BaseTunerLayer):
            continue
        moving = [one for one in movable if one.startswith(f"{name}.")]
        if not moving:
            continue
        _check_kind(name, module)
        found[name] = {}
        for adapter in module.active_adapters:
            if (pair := _pair(module, adapter)) is not None:
                scale = float(module.scaling[adapter])
                left, right = pair
                found[name][adapter] = (
                    _Factor(left, names[id(left)], scale),
                    _Factor(right, names[id(right)], scale),
                )
    return found


def _check_kind(name: str, module: LoraLayer) -> None:
    if not isinstance(module, LoraLayer):
        raise InputError(
            f"{name}: {type(module).__name__} is no LoRA, and this method adds up weights. Merge the adapter into its "
            "base first, or use another --method."
        )
    if any(module.use_dora.values()):
        raise InputError(
            f"{name}: the adapter is a DoRA, whose weights are no sum of a base and a product, and this method adds up "
            "weights. Merge it into its base first, or use another --method."
        )


def _pair(module: LoraLayer, adapter: str) -> tuple[Tensor, Tensor] | None:
    """B [O, R] and A [R, I] of one adapter, of a linear layer or an embedding."""
    if adapter in module.lora_A:
        return module.lora_B[adapter].weight, module.lora_A[adapter].weight
    if adapter in module.lora_embedding_A:
        return module.lora_embedding_B[adapter], module.lora_embedding_A[adapter]
    return None
