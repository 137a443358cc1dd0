"""What lets a model's real forward and backward run on the meta device, where tensors have shapes and no data."""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from expunge.errors import InputError

ATEN = torch.ops.aten
GROUPED = ("grouped_mm", "_grouped_mm")  # of tokens sorted by expert, [N, I], with [experts, I, O]


class NotFollowed(InputError):
    """A model whose passes need data, so that nothing can be said of them beforehand."""


@contextmanager
def following(model: nn.Module) -> Iterator[None]:
    """Raises `NotFollowed` for whatever a model raises that asks for values which the meta device does not have."""
    try:
        yield
    except InputError:
        raise
    except (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise NotFollowed(
            f"the passes of {type(model).__name__} cannot be followed without data ({type(error).__name__}), so "
            "neither time nor memory is known before a run. Try a run of few steps."
        ) from error


class Fused(TorchFunctionMode):
    """Sends attention to the CPU's fused kernel, which the meta device would not choose by itself; and products with
    experts' matrices, which have no meta kernel in float32, to one product of as many FLOPs."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(function, "__name__", "") in GROUPED:
            tokens, experts = args[:2]
            return tokens @ experts[0]
        if function is not F.scaled_dot_product_attention or kwargs.get("dropout_p"):
            return function(*args, **kwargs)
        query, key, value = args[:3]
        mask, scale = kwargs.get("attn_mask"), kwargs.get("scale")
        learned = mask is not None and mask.requires_grad
        if learned or query.shape[-1] != value.shape[-1]:  # the fused kernel takes heads of one width, and a fixed mask
            return function(*args, **kwargs)
        causal = bool(kwargs.get("is_causal", False))
        fused = ATEN._scaled_dot_product_flash_attention_for_cpu
        return fused(query, key, value, 0.0, causal, attn_mask=mask, scale=scale)[0]


class Live(TorchDispatchMode):
    """Follows the bytes of storages made inside; `known` ones are not counted.

    Where a model asks for the value of a tensor (whether a mask is all true), the answer is no; distributions do not
    ask whether their parameters are valid.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: weakref.WeakSet[Any] = weakref.WeakSet(tensor.untyped_storage() for tensor in known)

    def __enter__(self) -> Self:
        self.validating = Distribution._validate_args
        Distribution.set_default_validate_args(False)
        return super().__enter__()  # type: ignore[no-any-return]

    def __exit__(self, *raised: object) -> None:
        Distribution.set_default_validate_args(self.validating)
        super().__exit__(*raised)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is ATEN._local_scalar_dense.default:
            return False
        output = function(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._follow, output)
        return output

    def _follow(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage in self.seen:
            return
        self.seen.add(storage)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size
