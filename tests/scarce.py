"""Memory that runs out, and a tiny problem in float64 to see that what is computed stays the same."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from expunge.data.rows import Row
from expunge.data.tokens import Rendering, encode
from expunge.demo.tiny import byte_tokenizer, llama
from expunge.model.select import select
from expunge.problem import Problem, Split
from expunge.runs.distributed import Runtime

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


def problem_in_doubles(subspace: str = "full", rows: int = 9) -> Problem:
    """A tiny random Llama with answers and documents of many lengths in each split."""
    tokenizer = byte_tokenizer([], 258)
    model = llama(tokenizer, width=16, layers=2, heads=2, context=64, seed=0).double().eval()
    rendering = Rendering(context=64)
    splits = {}
    for place, name in enumerate(("forget", "retain", "unseen")):
        answers = [Row(name, n, "answer", f"{name} {n}?", "7" * (n + place + 1)) for n in range(rows)]
        group = (*answers, *(Row(name, n, "document", "", f"{name} is {'very ' * n}long") for n in range(2)))
        splits[name] = Split(name, group, tuple(encode(group, rendering, tokenizer)))
    chosen = select(model, subspace, torch.device("cpu"))
    return Problem(
        chosen.model, tokenizer, Runtime("cpu"), rendering, splits, 0, chosen.adapter, movable=chosen.movable
    )
