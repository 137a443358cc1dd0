"""Where and when something ran: versions, machine, peak memory, seconds per stage."""

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TypedDict

PACKAGES = ("torch", "transformers", "peft", "accelerate", "safetensors", "rouge_score", "numpy", "scipy")


class Clock:
    """Seconds per stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - begin, 3)


def versions() -> dict[str, str]:
    """Of this package, of Python, and of the libraries that results depend on."""
    return {"expunge": version("expunge"), "python": platform.python_version()} | {
        name: version(name) for name in PACKAGES
    }


class Environment(TypedDict):
    """Where and when a process ran; bytes at its peak."""

    created: str
    versions: dict[str, str]
    machine: str
    peak_memory_bytes: int


def environment() -> Environment:
    """Versions, machine, time and peak memory of this process."""
    unit = 1 if sys.platform == "darwin" else 1024
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, {platform.system()}",
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
    }
