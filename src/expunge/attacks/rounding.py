"""Rounding of the linear weights to 8 and 4 bits, as everybody does who runs a model on a phone.

    per group of 64 inputs: s = max |w| / (2^(bits-1) - 1), w <- s round(w / s)

Unlearning may move weights by less than a step of 4 bits, so rounding can undo it: in Zhang et al. 2024 (2410.16454)
models show 83 % of what was to be forgotten in place of 21 %. It harms any model too, so the original, rounded alike,
says what there is to see.

Departures: symmetric and to nearest, a scale for each group in float32, as Q8_0 of GGUF has it (there groups of 32, and
the scale in 16 bits; bitsandbytes has the 16 levels of a normal in groups of 64). The embeddings and the output head
stay; those of a model whose linear weights are an adapter's and its base's are rounded apart.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from expunge.attack import Asks, Level, Planned, Reading, Subject
from expunge.data.passes import Passes
from expunge.model.layers import linear_weights

BITS = (8, 4)


@torch.no_grad()
def rounded(weight: Tensor, bits: int, group: int = 64) -> Tensor:
    """[O, I] to the nearest of 2^bits - 1 levels, symmetric about 0, with a scale for each `group` of inputs."""
    most = 2 ** (bits - 1) - 1
    parts = []
    for part in weight.float().split(group, dim=1):
        scale = part.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / most
        parts.append((part / scale).round() * scale)
    return torch.cat(parts, dim=1).to(weight.dtype)


@torch.no_grad()
def round_all(model: torch.nn.Module, bits: int) -> None:
    """Rounds all linear weights of a model, in place."""
    weights = dict(model.named_parameters())
    for name, layer in linear_weights(model, weights).items():
        weight = weights[name]
        weight.copy_(layer.matrix(rounded(layer.matrix(weight), bits)))


@dataclass(frozen=True, slots=True)
class Rounding:
    """Each number of bits from the weights as they were written."""

    title: ClassVar[str] = "rounding"
    question: ClassVar[str] = "What if somebody rounds the weights to 8 or 4 bits to run the model on a small device?"
    level: ClassVar[Level] = "full"
    asks: ClassVar[Asks] = "forgotten"
    beside_original: ClassVar[bool] = True
    twin_only: ClassVar[bool] = False
    needs_weights: ClassVar[bool] = True
    margin: ClassVar[float] = 0.1

    def run(self, subject: Subject) -> Iterator[Reading]:
        for bits in BITS:
            with subject.weights_put_back():
                round_all(subject.problem.model, bits)
                yield Reading(f"{bits} bits", subject.look(subject.problem, subject.judged))

    def cost(self, planned: Planned) -> Passes:
        return planned.look(planned.judged).times(len(BITS))
