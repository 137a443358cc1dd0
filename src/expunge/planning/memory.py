"""Peak memory of a run, stage by stage: the copies of weights that live together, plus what the largest pass needs.

Bytes of passes come from `planning.trace`, from this file how many copies of what there are at each stage; on a GPU
they are the GPU's. On a CPU the interpreter with its libraries comes on top and is stated apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from expunge.model.select import choose
from expunge.model.trace import MOMENTS, SINGLE, Blueprint, Stack, blueprint
from expunge.planning.workload import Shape, Workload, largest
from expunge.reference.cache import EXACT_UP_TO, KEPT


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes at the peak of each stage, by what is done then."""

    stages: Mapping[str, int]

    @property
    def peak(self) -> int:
        return max(self.stages.values())

    @property
    def when(self) -> str:
        """What is done at the peak."""
        return max(self.stages, key=lambda stage: self.stages[stage])


class Builder:
    """Blueprints and traced passes of one configuration, each made once."""

    def __init__(self, shape: Any, stored: torch.dtype, trust_remote_code: bool, recompute: bool = False) -> None:
        self.stored = stored
        self.blueprint = cache(lambda subspace, dtype: blueprint(shape, subspace, dtype, trust_remote_code))
        self.stack = cache(lambda subspace, dtype: Stack(shape, subspace, dtype, trust_remote_code, recompute))
        self._peak = cache(
            lambda subspace, dtype, shape, training: (
                self.stack(subspace, dtype).trace(shape[0], shape[1], shape[2], training).peak
            )
        )
        self._cache = cache(lambda dtype: self.stack("full", dtype).cache_bytes())

    def working_dtype(self, subspace: str, free: int) -> torch.dtype:
        """As `assemble`: float32 for full weights and where it takes half of the memory at most, else as stored."""
        plain = self.plain()
        roomy = SINGLE * plain.total <= 0.5 * free
        return torch.float32 if roomy or subspace not in ("auto", "lora") else self.stored

    def chosen(self, asked: str, device: torch.device, free: int) -> str:
        """The subspace that a run takes with so much free memory."""
        return choose(asked, self.plain().total, device, free)[0]

    def plain(self) -> Blueprint:
        """The model with all its weights movable, in float32."""
        found: Blueprint = self.blueprint("full", torch.float32)
        return found

    def training_pass(self, subspace: str, dtype: torch.dtype, shapes: list[Shape]) -> int:
        """Bytes of the largest forward and backward."""
        return int(self._peak(subspace, dtype, largest(shapes), True))

    def measuring_pass(self, work: Workload, dtype: torch.dtype) -> int:
        """Bytes of the largest forward pass that measures, or of the keys and values of the largest generation."""
        passing = self._peak("full", dtype, largest(work.measured), False)
        return max(int(passing), self.generating_pass(work, dtype))

    def generating_pass(self, work: Workload, dtype: torch.dtype) -> int:
        """Bytes of the largest generation's keys and values, once more for one layer, as caches that grow copy it."""
        tokens = max((texts.windows * (texts.prompt + texts.new) for texts in work.generated), default=0)
        return int(tokens * self._cache(dtype))


@dataclass(frozen=True, slots=True)
class Setting:
    """What decides how much memory a run takes: subspace, how it is saved, and which other models are loaded."""

    subspace: str
    save: str
    shipped: torch.dtype
    base: bool
    retrained: bool


def unlearning(builder: Builder, work: Workload, setting: Setting, device: torch.device, free: int) -> Memory:
    """Peak bytes of `unlearn` by stage, on a machine with so much free memory (which decides the working dtype)."""
    subspace = builder.chosen(setting.subspace, device, free)
    dtype = builder.working_dtype(setting.subspace, free)
    made: Blueprint = builder.blueprint(subspace, dtype)
    single, weights, moved = SINGLE * made.total, made.weight_bytes, SINGLE * made.moving
    adapter = moved if subspace == "lora" else 0
    measuring = builder.measuring_pass(work, dtype)
    stages = {"measuring the original": weights + measuring}
    if setting.base or setting.retrained:
        name = "retrained model" if setting.retrained else "base"
        stages[f"measuring the {name}"] = weights + single + builder.measuring_pass(work, torch.float32)
    stages["unlearning"] = weights + adapter + _steps(builder, made, work, dtype, device)
    shipped = made.total * setting.shipped.itemsize
    if setting.save == "adapter":
        stages["measuring what was written"] = 2 * (weights + adapter) + measuring  # the base is read again, as it was
    else:
        casting = 0 if setting.shipped == torch.float32 else shipped
        stages["saving"] = single + casting
        stages["measuring what was written"] = single + shipped + builder.measuring_pass(work, setting.shipped)
    return Memory(stages)


def retraining(builder: Builder, work: Workload, subspace: str, device: torch.device, free: int) -> Memory:
    """Peak bytes of `retrain`: the original is loaded, and the base is trained beside it in float32."""
    original = builder.plain().total * builder.working_dtype("auto", free).itemsize
    made: Blueprint = builder.blueprint(subspace, torch.float32)
    adapter = SINGLE * made.moving if subspace == "lora" else 0
    steps = original + made.weight_bytes + adapter + _steps(builder, made, work, torch.float32, device)
    twin = original + 2 * made.weight_bytes + builder.measuring_pass(work, torch.float32)
    return Memory({"training": steps, "measuring the twin": twin})


def _steps(builder: Builder, made: Blueprint, work: Workload, dtype: torch.dtype, device: torch.device) -> int:
    """Gradients, AdamW's moments, snapshots, kept distributions, and the largest pass or AdamW's own temporaries."""
    moved = SINGLE * made.moving
    on_gpu = device.type != "cpu"
    temporaries = moved if on_gpu else 2 * SINGLE * made.largest  # a GPU updates all tensors at once
    kept = 0 if on_gpu else work.kept * _kept_bytes(builder.plain().vocabulary)
    passing = builder.training_pass(made.subspace, dtype, work.trained)
    return (1 + MOMENTS + work.snapshots) * moved + kept + max(passing, temporaries)


def _kept_bytes(vocabulary: int) -> int:
    """Bytes of the original's distribution at one target: a log-probability and an id for each kept token."""
    return 8 * (vocabulary if vocabulary <= EXACT_UP_TO else KEPT)
