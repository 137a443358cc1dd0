"""Rounding of the linear weights to 8 and 4 bits, as everybody does who runs a model on a phone.

    per group of 64 inputs: s = max |w|, w <- s times the nearest to w / s of the levels of a form

Levels of *b bits*: -1 to 1 in 2^b - 1 even steps. Of *NF4*: the 16 of QLoRA's NormalFloat, quantiles of a normal
(Dettmers et al. 2023, 2305.14314, appendix E), which bitsandbytes loads models in.

Unlearning may move weights by less than a step of 4 bits, so rounding can undo it: in Zhang et al. 2024 (2410.16454)
models show 83 % of what was to be forgotten in place of 21 %. It harms any model too, so the original, rounded alike,
says what there is to see.

Departures: a scale for each group in float32 (Q8_0 of GGUF: groups of 32, the scale in 16 bits; bitsandbytes rounds its
scales too). The embeddings and the output head stay; those of a model whose linear weights are an adapter's and its
base's are rounded apart.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from expunge.attack import Asks, Level, Planned, Reading, Subject
from expunge.data.passes import Passes
from expunge.model.layers import linear_weights

# fmt: off
NORMAL = (-1.0, -0.6961928, -0.5250730, -0.3949175, -0.2844414, -0.1847734, -0.0910500, 0.0,
          0.0795803, 0.1609302, 0.2461123, 0.3379152, 0.4407098, 0.5626170, 0.7229568, 1.0)
# fmt: on


def even(bits: int) -> tuple[float, ...]:
    """2^bits - 1 levels, symmetric about 0."""
    most = 2 ** (bits - 1) - 1
    return tuple(level / most for level in range(-most, most + 1))


FORMS = {"8 bits": even(8), "4 bits": even(4), "4 bits, NF4": NORMAL}


@torch.no_grad()
def rounded(weight: Tensor, levels: Sequence[float], group: int = 64) -> Tensor:
    """[O, I] to the nearest of these levels (rising, -1 to 1) times a scale for each `group` of inputs."""
    all_levels = torch.tensor(levels, device=weight.device)
    between = (all_levels[1:] + all_levels[:-1]) / 2
    parts = []
    for part in weight.float().split(group, dim=1):
        scale = part.abs().amax(dim=1, keepdim=True).clamp(min=1e-12)
        parts.append(all_levels[torch.bucketize(part / scale, between)] * scale)
    return torch.cat(parts, dim=1).to(weight.dtype)


@torch.no_grad()
def round_all(model: torch.nn.Module, levels: Sequence[float]) -> None:
    """Rounds all linear weights of a model, in place."""
    weights = dict(model.named_parameters())
    for name, layer in linear_weights(model, weights).items():
        weight = weights[name]
        weight.copy_(layer.matrix(rounded(layer.matrix(weight), levels)))


@dataclass(frozen=True, slots=True)
class Rounding:
    """Each form from the weights as they were written."""

    title: ClassVar[str] = "rounding"
    question: ClassVar[str] = "What if somebody rounds the weights to 8 or 4 bits to run the model on a small device?"
    level: ClassVar[Level] = "full"
    asks: ClassVar[Asks] = "forgotten"
    beside_original: ClassVar[bool] = True
    twin_only: ClassVar[bool] = False
    needs_weights: ClassVar[bool] = True
    margin: ClassVar[float] = 0.1

    def run(self, subject: Subject) -> Iterator[Reading]:
        for name, levels in FORMS.items():
            with subject.weights_put_back():
                round_all(subject.problem.model, levels)
                yield Reading(name, subject.look(subject.problem, subject.judged))

    def cost(self, planned: Planned) -> Passes:
        return planned.look(planned.judged).times(len(FORMS))
