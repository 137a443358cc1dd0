"""Bytes of memory: how many are free now, and how many a choice may count on.

What decides which model comes out (the subspace, the layers that move, the dtype of the work) goes by the device's
*size*, so that the same command gives the same model whatever else runs. What is free now decides how much is done at
a time, which changes no result, and is said where it is less than was counted on.

In a container the size is its limit, not the machine's (cgroup v2 `memory.max`, v1 `memory.limit_in_bytes`).
"""

from pathlib import Path

import psutil
import torch

from expunge.runs import distributed, launcher

USABLE = 0.9  # of the size; the rest is the system's (our choice)
CGROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)  # limit and use


def free(device: torch.device) -> int:
    """Bytes that are free on the device for this process: the same on each of several, which decide alike."""
    if device.type == "cuda":
        return distributed.least(int(torch.cuda.mem_get_info(device)[0]))
    available = int(psutil.virtual_memory().available)
    for limit, used in _limits():
        available = min(available, max(0, limit - used))
    return distributed.least(available // launcher.neighbours())


def usable(device: torch.device) -> int:
    """Bytes of the device that choices count on for this process, whatever of it is free."""
    if device.type == "cuda":
        return distributed.least(int(USABLE * torch.cuda.mem_get_info(device)[1]))
    size = min([int(psutil.virtual_memory().total), *(limit for limit, _ in _limits())])
    return distributed.least(int(USABLE * size) // launcher.neighbours())


def _limits() -> list[tuple[int, int]]:
    """Limit and use of the container that this process is in, where it has a limit ("max", or nearly 2^63: none)."""
    found = []
    for limit, used in CGROUPS:
        try:
            found.append((int(Path(limit).read_text()), int(Path(used).read_text())))
        except (OSError, ValueError):
            continue
    return [(limit, used) for limit, used in found if 0 < limit < 1 << 60]
