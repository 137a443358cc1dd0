"""What a launcher says in the environment, read before anything is loaded: how many processes, and what is refused.

`accelerate launch --multi_gpu` and `torchrun` start the same program several times and number the processes (RANK,
LOCAL_RANK, WORLD_SIZE). WORLD_SIZE alone says nothing: cluster managers set it for machines.
"""

import os

from expunge.errors import InputError

REFUSED = {
    "ACCELERATE_USE_FSDP": "FSDP",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "a parallelism configuration",
}
MPI = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
SHARED = ("unlearn", "evaluate", "retrain")  # commands whose work several processes share
INSTEAD = (
    "Each process holds the whole model here: start it with `accelerate launch --multi_gpu --num_processes N -m "
    "expunge ...`, or without a launcher."
)


def processes() -> int:
    """How many there are; 1 without a launcher."""
    started = all(name in os.environ for name in ("RANK", "LOCAL_RANK"))
    return int(os.environ.get("WORLD_SIZE", "1")) if started else 1


def rank() -> int:
    """The number of this process, from 0."""
    return int(os.environ["RANK"]) if processes() > 1 else 0


def local_rank() -> int:
    """The number of this process on its machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if processes() > 1 else 0


def neighbours() -> int:
    """Processes on this machine, this one included."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if processes() > 1 else 1


def check(command: str = "") -> None:
    """Raises `InputError` for launchers that are not tested, and for a command that one process does alone."""
    for name, kind in REFUSED.items():
        if os.environ.get(name, "false").lower() in ("true", "1"):
            raise InputError(f"the launcher is set to {kind} ({name}), which is not tested and so refused. {INSTEAD}")
    if processes() == 1 and any(int(os.environ.get(name) or 1) > 1 for name in MPI):
        raise InputError(f"several processes started by MPI are not tested and so refused. {INSTEAD}")
    if command and processes() > 1 and command not in SHARED:
        raise InputError(
            f"{command} is the work of one process, and the launcher started {processes()}. Start it without a "
            f"launcher; those that share their work are {', '.join(SHARED)}."
        )
