"""The only file that touches torch.distributed: device, precision, and what several processes do together.

Each process holds the whole model and makes the same random draws; batches are dealt out (`share`), and what they add
up to is summed over the processes once (`total_`), so that all go on with the same numbers and take the same turns. A
gradient is a sum like any other: no model is wrapped, nothing is averaged, and a process whose share is empty takes
part with zeros. On one process all of this does nothing.
"""

import pickle
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from expunge.errors import ExpungeError, InputError
from expunge.runs import launcher

PATIENCE = timedelta(days=2)  # the first process may write or sample for long; one that died is noticed at once
BUCKET = 2**22  # elements that are summed at a time, so that many small tensors cost few messages
T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class Store(Protocol):
    """What the processes share: numbers by key, added to by whoever comes."""

    def add(self, key: str, amount: int, /) -> int: ...


class Company:
    """The processes of one run, met. Each holds it from the start to say who speaks when something fails."""

    def __init__(self, store: Store | None = None) -> None:
        """`store`: the key-value store that the processes share."""
        self._store = store

    def speaks(self) -> bool:
        """Whether this process is the first to fail, so that the one message is its own."""
        if self._store is None:
            return True
        try:
            return int(self._store.add("expunge: failed", 1)) == 1
        except RuntimeError:  # the process that kept the store is gone, and had its say
            return False


def join() -> Company:
    """Meets the other processes that the launcher started, once."""
    if launcher.processes() == 1 or _met():
        return Company()
    store, rank, size = next(rendezvous("env://", timeout=PATIENCE))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    return Company(store)


def leave() -> None:
    """Waits for the others and parts with them: a launcher ends all as soon as one has ended otherwise."""
    if _met():
        wait()
        dist.destroy_process_group()


def processes() -> int:
    """How many share the work."""
    return dist.get_world_size() if _met() else 1


def _rank() -> int:
    return dist.get_rank() if _met() else 0


def _met() -> bool:
    return dist.is_available() and dist.is_initialized()


def main_process() -> bool:
    """Whether this is the process that writes and prints."""
    return _rank() == 0


def share(items: Sequence[T]) -> Sequence[T]:
    """This process's part of the items, every so-manyth: all of them on one process, perhaps none on one of several."""
    return items if processes() == 1 else items[_rank() :: processes()]


def total_(tensors: dict[str, Tensor]) -> None:
    """Sums tensors over the processes by name, in place. A process that lacks a name counts as zeros.

    Afterwards all processes hold the same names in the same order, with the same bits: the sum is made once and handed
    out.
    """
    if processes() == 1:
        return
    kinds: dict[str, tuple[torch.Size, torch.dtype, str]] = {}
    for theirs in _all({name: (part.shape, part.dtype, part.device.type) for name, part in tensors.items()}):
        kinds |= {name: kind for name, kind in theirs.items() if name not in kinds}
    own = dict(tensors)
    tensors.clear()
    for name, (shape, dtype, device) in kinds.items():
        tensors[name] = own[name] if name in own else torch.zeros(shape, dtype=dtype, device=device)
    for bucket in _buckets(list(tensors.values())):
        _sum_(bucket)


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one dtype and device together, up to `BUCKET` elements or a single larger one."""
    open_: dict[tuple[torch.dtype, str], list[Tensor]] = {}
    for tensor in tensors:
        bucket = open_.setdefault((tensor.dtype, tensor.device.type), [])
        if bucket and sum(part.numel() for part in bucket) + tensor.numel() > BUCKET:
            yield list(bucket)
            bucket.clear()
        bucket.append(tensor)
    yield from open_.values()


@torch.no_grad()
def _sum_(bucket: list[Tensor]) -> None:
    whole = len(bucket) == 1 and bucket[0].is_contiguous()
    flat = bucket[0] if whole else torch.cat([part.flatten() for part in bucket])
    with _in_company():
        dist.all_reduce(flat)
    if whole:
        return
    for part, summed in zip(bucket, flat.split([part.numel() for part in bucket]), strict=True):
        part.copy_(summed.view_as(part))


def gathered(found: Mapping[K, T]) -> dict[K, T]:
    """What all processes found, by key; no two find the same. Nothing that lies on a device."""
    return {key: value for theirs in _all(dict(found)) for key, value in theirs.items()}


def least(value: int) -> int:
    """The smallest of all processes' values, for decisions that all must take alike."""
    return min(_all(value))


def from_main(work: Callable[[], T]) -> T:
    """What the main process makes of `work`, handed to all; the others wait, so what it wrote is there for them."""
    if processes() == 1:
        return work()
    made = [work() if main_process() else None]
    with _in_company():
        dist.broadcast_object_list(made, src=0)
    return made[0]  # type: ignore[return-value]


def as_main_(tensors: Iterable[Tensor]) -> None:
    """The main process's values everywhere, in place: for what was drawn from a generator that nobody seeded."""
    if processes() == 1:
        return
    with _in_company(), torch.no_grad():
        for tensor in tensors:
            dist.broadcast(tensor.data, src=0)


def wait() -> None:
    """Until all processes are here."""
    _all(None)


def _all(value: T) -> list[T]:
    """Every process's value, in their order."""
    if processes() == 1:
        return [value]
    found: list[Any] = [None] * processes()
    with _in_company():
        dist.all_gather_object(found, value)
    return found


@contextmanager
def _in_company() -> Iterator[None]:
    """A connection that breaks says that another process ended; what it ended of is that process's to say."""
    try:
        yield
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ExpungeError("another process of this run has ended, so this one ends too.") from error


class Runtime:
    """Where and in which precision a process computes.

    Weights that move are float32; on hardware that has bfloat16 the forward passes run under autocast. Several
    processes take the devices of their machine in turn.
    """

    def __init__(self, device: str = "auto") -> None:
        launcher.check()
        torch.set_flush_denormal(True)
        if device not in ("auto", "cpu") and not device.startswith("cuda"):
            raise InputError(f"--device {device}: expected auto, cpu, cuda or cuda:N.")
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise InputError(f"--device {device}: this machine has no CUDA device. Use --device cpu.")
        on_cpu = device == "cpu" or not torch.cuda.is_available()
        join()
        self.device = torch.device("cpu") if on_cpu else _cuda(device)
        self.precision = "no" if on_cpu or not torch.cuda.is_bf16_supported() else "bf16"

    def autocast(self) -> AbstractContextManager[object]:
        """Mixed precision where the hardware has it, else nothing."""
        return nullcontext() if self.precision == "no" else torch.autocast(self.device.type, dtype=torch.bfloat16)

    def backward(self, loss: Tensor) -> None:
        loss.backward()  # type: ignore[no-untyped-call]

    def clip(self, parameters: Iterable[Tensor], norm: float) -> Tensor:
        """Clips the gradients to `norm` (their global l2 norm) and returns the norm before clipping."""
        return torch.nn.utils.clip_grad_norm_(list(parameters), norm)


def _cuda(asked: str) -> torch.device:
    """The device of this process. Raises `InputError` where there are fewer than processes on this machine."""
    if processes() == 1:
        return torch.device(asked if ":" in asked else "cuda")
    own = torch.device("cuda", launcher.local_rank())
    if launcher.neighbours() > torch.cuda.device_count():
        raise InputError(
            f"{launcher.neighbours()} processes on a machine with {torch.cuda.device_count()} CUDA device(s). Start as "
            "many processes as there are devices (--num_processes), or use --device cpu."
        )
    if ":" in asked and torch.device(asked) != own:
        raise InputError(f"--device {asked}: several processes take a device each. Use --device cuda.")
    torch.cuda.set_device(own)
    return own


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
