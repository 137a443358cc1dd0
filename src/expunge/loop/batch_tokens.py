"""With how many tokens at a time a run begins: the plan's figure of a training pass beside the memory that is free.

Where the largest batch that can be drawn fits with ease, as it does for most small models, there is no limit; so what a
run computes does not depend, not even in rounding, on what else the machine was doing when it began.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, Protocol

from expunge.errors import InputError
from expunge.model.recompute import allow
from expunge.model.trace import MOMENTS, SINGLE, Stack
from expunge.problem import Problem
from expunge.runs import memory

MOST_WINDOWS = 32  # of a batch, see `data.batches`
SNAPSHOTS = 3  # copies of the moved weights at the worst time
SHARE = 0.8  # of what is free: the plan does not see what kernels need inside themselves


class Settings(Protocol):
    """What a configuration says of memory."""

    @property
    def batch_tokens(self) -> Any: ...
    @property
    def gradient_checkpointing(self) -> bool: ...
    @property
    def trust_remote_code(self) -> bool: ...


def begin(problem: Problem, subspace: str, settings: Settings, say: Callable[[str], None]) -> None:
    """Sets a problem's portions up for its steps, once its model and what moves of it are known.

    Raises `InputError` where gradient checkpointing was asked for and the model has none.
    """
    allow(problem.portions, problem.model, settings.gradient_checkpointing)
    if settings.batch_tokens != "auto":
        return
    width = max(len(window.ids) for split in problem.splits.values() for window in split.windows)
    moving = SINGLE * sum(tensor.numel() for tensor in problem.movable.values())
    free = SHARE * memory.free(problem.runtime.device) - (1 + MOMENTS + SNAPSHOTS) * moving
    found = tokens_within(free, width, _passes(problem, subspace, settings))
    if found < MOST_WINDOWS * width:
        problem.portions.begin(found)
        say(f"memory: {found} tokens at a time to begin with ({free / 2**30:.1f} GiB are free for passes)")


def tokens_within(free: float, width: int, bytes_of: Callable[[int, int], int]) -> int:
    """Places of the largest batch of windows of one width that takes at most `free` bytes, halving from the largest
    batch that is ever drawn; one window where none does. `bytes_of(windows, width)` is the plan's figure."""
    windows = MOST_WINDOWS
    while windows > 1 and bytes_of(windows, width) > free:
        windows //= 2
    return windows * width


def _passes(problem: Problem, subspace: str, settings: Settings) -> Callable[[int, int], int]:
    """Bytes of a forward and backward pass over windows in which every token counts; 0 for models that the meta device
    cannot run: they begin without a limit, and meet it."""

    @cache
    def stack() -> Stack:
        dtype = next(problem.model.parameters()).dtype
        moving = "lora" if subspace == "adapter" else subspace
        trusted, recompute = settings.trust_remote_code, settings.gradient_checkpointing
        return Stack(problem.model.config, moving, dtype, trusted, recompute)

    def bytes_of(windows: int, width: int) -> int:
        try:
            return stack().trace(windows, width, windows * (width - 1), training=True).peak
        except (InputError, RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError):
            return 0

    return bytes_of
