"""Memory that runs out."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from expunge.problem import Problem

SAYS = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 1.00 GiB."


@contextmanager
def scarce(problem: Problem, most: int, backward: bool = False) -> Iterator[None]:
    """Passes over more than `most` places fail: forward passes, or backward passes at their end, when most of the
    parameters have their gradients."""
    sizes: list[int] = []

    def forward(module: Any, arguments: Any, named: dict[str, Any]) -> None:
        sizes.append(named["input_ids"].numel())
        if sizes[-1] > most and not backward:
            raise torch.OutOfMemoryError(SAYS)

    def at_the_end(gradient: torch.Tensor) -> None:
        if sizes[-1] > most:
            raise torch.OutOfMemoryError(SAYS)

    handles = [problem.model.register_forward_pre_hook(forward, with_kwargs=True)]
    if backward:
        handles.append(next(iter(problem.movable.values())).register_hook(at_the_end))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
