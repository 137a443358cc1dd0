"""Peak memory of a stage."""

import threading

import psutil
import torch


class Peak:
    """Peak memory of a stage in bytes: what CUDA allocated, else resident memory, looked at 20 times a second."""

    def __init__(self, device: torch.device | str) -> None:
        self.bytes = 0
        self._cuda = str(device).startswith("cuda")
        self._device, self._done = device, threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "Peak":
        if self._cuda:
            torch.cuda.reset_peak_memory_stats(self._device)
        else:
            self._watcher.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._cuda:
            self.bytes = torch.cuda.max_memory_allocated(self._device)
        else:
            self._done.set()
            self._watcher.join()

    def _watch(self) -> None:
        process = psutil.Process()
        while not self._done.wait(0.05):
            self.bytes = max(self.bytes, process.memory_info().rss)
