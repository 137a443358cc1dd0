"""Linear layers as pairs: what came into each token, and the gradient of what came out.

The gradient of a layer's weight is the sum over tokens of g x'. Curvatures with two factors and Gram matrices of rows
are made of the pairs and never of that sum.

Shapes: T tokens, I layer input, O layer output.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.data.batches import Batch
from expunge.errors import InputError
from expunge.gradients.capture import Capture, Use, capturing
from expunge.model.layers import Linear, leaders
from expunge.model.losses import target_logits
from expunge.problem import Problem

Pair = Callable[[str, Tensor, Tensor], None]


@contextmanager
def pairing(problem: Problem, layers: Mapping[str, Linear], pair: Pair) -> Iterator["Pairing"]:
    """Hooks that call `pair(name, x [B, T, I], g [B, T, O])` for each layer in a backward pass, then are removed."""

    def receive(name: str, uses: list[Use]) -> None:
        if len(uses) != 1:
            raise InputError(
                f"{name}: this layer is used {len(uses)} times in one pass, and its two factors would be those of no "
                "use. Choose a --subspace without it, or another curvature."
            )
        pair(name, uses[0].came_in, uses[0].gradient)

    def nothing(name: str, gradients: Tensor, rows: slice) -> None:
        raise AssertionError("gradients per example are not asked for")

    movable = {name: problem.movable[name] for name in layers}
    with capturing(problem.model, movable, nothing, receive) as capture:
        yield Pairing(problem, capture)


@dataclass(frozen=True, slots=True)
class Pairing:
    """Runs batches while the hooks are there."""

    problem: Problem
    capture: Capture

    def run(self, batch: Batch, cotangent: Callable[[Tensor], Tensor]) -> None:
        """One forward pass, and one backward pass of `cotangent(logits [N, V])`; the batch lies on the device."""
        rows = torch.arange(len(batch.ids))  # each window for itself: what is made of the pairs knows whose they are
        self.capture.begin(rows, batch.ids.shape[1])
        with self.problem.runtime.autocast():
            logits = target_logits(self.problem.model, batch)
        with torch.no_grad():
            made = cotangent(logits.detach())
        self.capture.backward(logits, made)


def shared_inputs(problem: Problem, layers: Mapping[str, Linear], batch: Batch) -> dict[str, str]:
    """For each layer the first one that gets the very same input, seen in one forward pass."""

    def run() -> None:
        with problem.runtime.autocast():
            problem.model(input_ids=batch.ids, attention_mask=batch.attention.long(), use_cache=False)

    return leaders(problem.model, layers, run)


def flat(values: Tensor, attention: Tensor) -> Tensor:
    """[B, T, D] of real tokens as [tokens, D], in float32 or wider."""
    picked = values[attention]
    return picked.to(torch.promote_types(picked.dtype, torch.float32))


def rows_in_order(names: Sequence[str], leaders: Mapping[str, str]) -> list[str]:
    """The names that lead, once each."""
    return list(dict.fromkeys(leaders[name] for name in names))
