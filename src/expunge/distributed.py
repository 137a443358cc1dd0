"""The only file that touches accelerate: device, mixed precision, backward and clipping, for one process."""

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
from accelerate import Accelerator
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor

from expunge.errors import InputError


class Runtime:
    """Where and in which precision a run computes.

    Weights that move are float32; on hardware that has bfloat16 the forward passes run under autocast. Several
    processes are refused.
    """

    def __init__(self, device: str = "auto") -> None:
        torch.set_flush_denormal(True)
        if device not in ("auto", "cpu") and not device.startswith("cuda"):
            raise InputError(f"--device {device}: expected auto, cpu, cuda or cuda:N.")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"--device {device}: this machine has no CUDA device. Use --device cpu.")
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        mixed = "no" if on_cpu or not torch.cuda.is_bf16_supported() else "bf16"
        self._accelerator = Accelerator(cpu=on_cpu, mixed_precision=mixed)
        if self._accelerator.num_processes > 1:
            raise InputError("several processes are not supported yet. Start expunge without a launcher.")
        self.device = torch.device(device) if ":" in device else self._accelerator.device
        self.precision = mixed

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision where the hardware has it, else nothing."""
        return nullcontext() if self.precision == "no" else torch.autocast(self.device.type, dtype=torch.bfloat16)

    def backward(self, loss: Tensor) -> None:
        self._accelerator.backward(loss)

    def clip(self, parameters: Iterable[Tensor], norm: float) -> Tensor:
        """Clips the gradients to `norm` (their global l2 norm) and returns the norm before clipping."""
        return torch.nn.utils.clip_grad_norm_(list(parameters), norm)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that the device, or this machine, has no memory left for what was asked."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    said = str(error) if isinstance(error, RuntimeError) else ""
    ours = any(words in said for words in ("not enough memory", "can't allocate memory"))  # other systems' main memory
    return bool(said) and (ours or should_reduce_batch_size(error))


def release_memory() -> None:
    """Hands back to the device what nothing holds any more."""
    clear_device_cache(garbage_collection=True)
