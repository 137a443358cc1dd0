"""A step back towards the original: what unlearning took away along one line may be a short way off.

    w <- (1 - a) w + a w_original,  a = 0.1 and 0.3

Models of one origin are merged every day, and who merges the unlearned model with a sibling of the original takes such
a step. Who has the original itself has the rows; so what counts is not that rows come back, but that they come back
sooner than in a retrained model that is merged alike.

Departure: not tried where the two models have not the same weights by name and shape.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch

from expunge.attack import Asks, Level, Planned, Point, Reading, Subject
from expunge.data.passes import Passes

SHARES = (0.1, 0.3)


@torch.no_grad()
def merge(model: torch.nn.Module, other: torch.nn.Module, share: float) -> None:
    """Moves a model's weights that share of the way to those of the other, in place."""
    theirs = dict(other.named_parameters())
    for name, tensor in model.named_parameters():
        if tensor.is_floating_point():
            tensor.copy_(tensor.lerp(theirs[name].to(tensor), share))


def alike(model: torch.nn.Module, other: torch.nn.Module) -> bool:
    """Whether both have the same weights, by name and shape."""
    mine, theirs = (
        {name: tensor.shape for name, tensor in one.named_parameters() if tensor.is_floating_point()}
        for one in (model, other)
    )
    return mine == theirs


@dataclass(frozen=True, slots=True)
class MergeBack:
    """A tenth and three tenths of the way."""

    title: ClassVar[str] = "merging with the original"
    question: ClassVar[str] = "What if somebody merges the model with one that still knows the rows?"
    level: ClassVar[Level] = "audit"
    asks: ClassVar[Asks] = "forgotten"
    beside_original: ClassVar[bool] = False
    twin_only: ClassVar[bool] = False
    needs_weights: ClassVar[bool] = True
    margin: ClassVar[float] = 0.1

    def run(self, subject: Subject) -> Iterator[Reading]:
        model, original = subject.problem.model, subject.original().model
        for share in SHARES if alike(model, original) else ():
            with subject.weights_put_back():
                merge(model, original, share)
                point = Point("merging", "share of the way to the original", share)
                yield Reading(f"{share:.0%} of the way", subject.look(subject.problem, subject.judged), point)

    def cost(self, planned: Planned) -> Passes:
        return planned.look(planned.judged).times(len(SHARES))
