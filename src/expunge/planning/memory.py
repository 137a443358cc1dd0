"""Peak memory of a run, stage by stage: the copies of weights that live together, plus what the largest pass needs.

Bytes of passes come from `model.trace`, how many copies of what there are from those who work (`data.passes`); on a GPU
they are the GPU's. On a CPU the interpreter with its libraries comes on top and is stated apart.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import torch

from expunge.config.lora import is_lora
from expunge.data.passes import Passes, Shape, Weighed
from expunge.method import Needs
from expunge.model.select import choose
from expunge.model.trace import MOMENTS, SINGLE, Blueprint, Stack, blueprint, shared_inputs, unfit
from expunge.reference.cache import EXACT_UP_TO, KEPT

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


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

    def __init__(
        self, shape: "PreTrainedConfig", stored: torch.dtype, trust_remote_code: bool, recompute: bool = False
    ) -> None:
        self.stored = stored
        self.blueprint = cache(
            lambda subspace, dtype, layers=None, linear="": blueprint(
                shape, subspace, dtype, trust_remote_code, layers, linear
            )
        )
        self.stack = cache(lambda subspace, dtype: Stack(shape, subspace, dtype, trust_remote_code, recompute))
        self._peak = cache(
            lambda subspace, dtype, shape, training: self.stack(subspace, dtype).peak(
                shape.windows, shape.width, shape.targets, training
            )
        )
        self.shared = cache(lambda: shared_inputs(self.plain().model))
        self.unfit = cache(lambda: unfit(self.plain().model))
        self._cache = cache(lambda dtype: self.stack("full", dtype).cache_bytes())

    def working_dtype(self, subspace: str, size: int) -> torch.dtype:
        """As `assemble`: float32 for full weights and where it takes half of the memory at most, else as stored."""
        plain = self.plain()
        roomy = SINGLE * plain.total <= 0.5 * size
        return torch.float32 if roomy or not (subspace == "auto" or is_lora(subspace)) else self.stored

    def chosen(self, asked: str, device: torch.device, size: int) -> str:
        """The subspace that a run takes with so much usable memory."""
        return choose(asked, self.plain().total, device, size)[0]

    def width(self) -> int:
        """Of a state: what comes into the output head."""
        return int(self.plain().model.get_output_embeddings().weight.shape[-1])

    def plain(self) -> Blueprint:
        """The model with all its weights movable, in float32."""
        found: Blueprint = self.blueprint("full", torch.float32)
        return found

    def training_pass(self, subspace: str, dtype: torch.dtype, passes: Passes) -> int:
        """Bytes of the largest forward and backward; none for work that is only arithmetic on weights."""
        return int(self._peak(subspace, dtype, largest(passes.trained), True)) if passes.trained else 0

    def measuring_pass(self, passes: Passes, dtype: torch.dtype) -> int:
        """Bytes of the largest forward pass that measures, or of the keys and values of the largest generation."""
        passing = int(self._peak("full", dtype, largest(passes.plain), False)) if passes.plain else 0
        return max(passing, self.generating_pass(passes, dtype))

    def generating_pass(self, passes: Passes, dtype: torch.dtype) -> int:
        """Bytes of the largest generation's keys and values, once more for one layer, as caches that grow copy it."""
        tokens = max((texts.windows * (texts.prompt + texts.new) for texts in passes.generated), default=0)
        return int(tokens * self._cache(dtype))

    def kept(self, passes: Passes) -> int:
        """Bytes of what is kept of the original: for each target's distribution a log-probability and an id for each
        token that is kept, for each token's states their width."""
        vocabulary = self.plain().vocabulary
        distribution = 2 * SINGLE * (vocabulary if vocabulary <= EXACT_UP_TO else KEPT)
        return int(distribution * passes.kept["distributions"] + SINGLE * self.width() * passes.kept["states"])


@dataclass(frozen=True, slots=True)
class Setting:
    """What decides how much memory a run takes: subspace, how it is saved, and which other model, by what it is (none:
    empty), is loaded beside the original."""

    subspace: str
    save: str
    shipped: torch.dtype
    other: str


def unlearning(
    builder: Builder, needs: Needs, steps: Passes, judging: Passes, setting: Setting, device: torch.device, size: int
) -> Memory:
    """Peak bytes of `unlearn` by stage, on a machine with so much usable memory (which decides the working dtype).

    `needs` of the method; `steps`: what it takes, its `init` included; `judging`: what every model is measured by.
    """
    subspace = builder.chosen(setting.subspace, device, size)
    dtype = builder.working_dtype(setting.subspace, size)
    made: Blueprint = builder.blueprint(subspace, dtype, needs.layers, needs.linear.which if needs.linear else "")
    single, weights, moved = SINGLE * made.total, made.weight_bytes, SINGLE * made.moving
    adapter = moved if is_lora(subspace) else 0
    measuring = builder.measuring_pass(judging, dtype)
    stages = {"measuring the original": weights + max(measuring, builder.measuring_pass(steps, dtype))}
    if name := setting.other:
        stages[f"measuring the {name}"] = weights + single + builder.measuring_pass(judging, torch.float32)
    stages["unlearning"] = weights + adapter + _steps(builder, made, steps, dtype, device)
    shipped = made.total * setting.shipped.itemsize
    if setting.save == "adapter":
        stages["measuring what was written"] = 2 * (weights + adapter) + measuring  # the base is read again, as it was
    else:
        casting = 0 if setting.shipped == torch.float32 else shipped
        stages["saving"] = single + casting
        stages["measuring what was written"] = single + shipped + builder.measuring_pass(judging, setting.shipped)
    return Memory(stages)


def retraining(
    builder: Builder, steps: Passes, judging: Passes, subspace: str, device: torch.device, size: int
) -> Memory:
    """Peak bytes of `retrain`: the original is loaded, and the base is trained beside it in float32."""
    original = builder.plain().total * builder.working_dtype("auto", size).itemsize
    made: Blueprint = builder.blueprint(subspace, torch.float32)
    adapter = SINGLE * made.moving if is_lora(subspace) else 0
    training = original + made.weight_bytes + adapter + _steps(builder, made, steps, torch.float32, device)
    twin = original + 2 * made.weight_bytes + builder.measuring_pass(judging, torch.float32)
    return Memory({"training": training, "measuring the twin": twin})


def _steps(builder: Builder, made: Blueprint, steps: Passes, dtype: torch.dtype, device: torch.device) -> int:
    """Gradients, AdamW's moments, snapshots, curvature, what is kept of the original, and the largest pass or AdamW's
    own temporaries."""
    moved = SINGLE * made.moving
    on_gpu = device.type != "cpu"
    temporaries = moved if on_gpu else 2 * SINGLE * made.largest  # a GPU updates all tensors at once
    kept = 0 if on_gpu else builder.kept(steps)
    passing = builder.training_pass(made.subspace, dtype, steps)
    return (1 + MOMENTS + steps.copies) * moved + steps.bytes + kept + max(passing, temporaries)


def largest(passes: Weighed) -> Shape:
    """The shape that bounds all: most windows times tokens, and most targets."""
    shapes = [shape for _, shape in passes]
    widest = max(shapes, key=lambda shape: (shape.windows * shape.width, shape.targets))
    most = min(max(shape.targets for shape in shapes), widest.windows * (widest.width - 1))
    return widest._replace(targets=most)
