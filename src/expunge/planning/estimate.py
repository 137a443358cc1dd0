"""What unlearning and retraining would cost: FLOPs, peak memory and time, and what fits into how much memory."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import psutil
import torch

from expunge.data.rows import Row
from expunge.loop.training import Training
from expunge.model import load
from expunge.model.load import DTYPES
from expunge.model.select import free_memory
from expunge.model.trace import Curve
from expunge.planning import memory, workload
from expunge.planning.memory import Builder, Memory, Setting
from expunge.planning.speed import calibrate
from expunge.planning.workload import Rows, Shape, Workload
from expunge.runs.distributed import Runtime

CONTEXTS = (512, 256, 128)


@dataclass(frozen=True, slots=True)
class Cost:
    """FLOPs of the steps, FLOPs of measuring and generating, peak memory by stage, seconds without loading files."""

    name: str
    subspace: str
    steps: int
    step_flops: float
    other_flops: float
    memory: Memory
    seconds: float


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a run with these flags (none: as asked) fits: its subspace, its peak in bytes, what is done then."""

    flags: str
    subspace: str
    peak: int
    when: str
    fits: bool


@dataclass(frozen=True, slots=True)
class Estimate:
    """All of a plan's figures. `missing`: methods that need an input that was not given, and which.

    `room`: by a memory's name, what was tried with it, the last one first to fit; `interpreter`: bytes that Python
    and its libraries take beside (0 where the memory is a GPU's).
    """

    methods: tuple[Cost, ...]
    missing: Mapping[str, str]
    retraining: Cost | None
    room: Mapping[str, tuple[Fit, ...]]
    interpreter: int


class Estimator:
    """Costs of one model, its rows and this machine. What takes time (traces, timings) is done once."""

    def __init__(self, config: Any, shape: Any, rows: Rows, runtime: Runtime, stored: torch.dtype) -> None:
        self.config, self.rows, self.runtime = config, rows, runtime
        on_cpu = runtime.device.type == "cpu"
        self.interpreter = psutil.Process().memory_info().rss if on_cpu else 0
        self.free = free_memory(runtime.device)
        shipped = stored if config.dtype == "auto" else DTYPES[config.dtype]
        given = load.adapter_of(str(config.model)) is not None
        self.asked = "lora" if given else config.subspace  # an adapter that was given is planned for as our own LoRA
        saved = "adapter" if given and config.save == "auto" else config.save
        self.setting = Setting(self.asked, saved, shipped, bool(config.base), bool(config.retrained))
        self.builder = Builder(shape, stored, config.trust_remote_code, config.gradient_checkpointing)
        self._curves = cache(
            lambda subspace: self.builder.stack(subspace, torch.float32).curves(rows.longest, training=True)
        )
        self._rates = cache(
            lambda subspace, typical: calibrate(
                shape, subspace, typical[0], typical[1], runtime, config.trust_remote_code
            )
        )

    def unlearning(self, name: str, method: Any) -> Cost:
        """The cost of one method, an instance of its dataclass."""
        work = self._work(method, self.rows)
        subspace = self.builder.chosen(self.asked, self.runtime.device, self.free)
        used = memory.unlearning(self.builder, work, self.setting, self.runtime.device, self.free)
        return self._cost(name, subspace, work, used)

    def retraining(self, kept: Sequence[Row], training: Training) -> Cost:
        """The cost of the retrained twin on the rows that are left."""
        work = workload.retraining(kept, training, self.rows.rendering, self.rows.tokenizer, self.config.seed)
        asked = "lora" if training.subspace == "adapter" else training.subspace
        subspace = self.builder.chosen(asked, self.runtime.device, self.free)
        used = memory.retraining(self.builder, work, subspace, self.runtime.device, self.free)
        return self._cost("retraining", subspace, work, used)

    def _work(self, method: Any, rows: Rows) -> Workload:
        work = workload.unlearning(method, self.config, rows, self.runtime, self.builder.plain().total)
        tokens = self.config.batch_tokens
        return work if tokens == "auto" else workload.cut(work, tokens)

    def room(self, method: Any, size: int) -> tuple[Fit, ...]:
        """Whether a run fits into `size` free bytes as it is asked for, and else with which flags."""
        tried: list[Fit] = []
        for flags, setting, rows in self._variants(size):
            work = self._work(method, rows)
            used = memory.unlearning(self.builder, work, setting, self.runtime.device, size)
            subspace = self.builder.chosen(setting.subspace, self.runtime.device, size)
            peak = used.peak + self.interpreter
            tried.append(Fit(flags, subspace, peak, used.when, peak <= size))
            if tried[-1].fits:
                break
        return tuple(tried)

    def _variants(self, size: int) -> Iterable[tuple[str, Setting, Rows]]:
        asked = self.setting
        yield "", asked, self.rows
        lora = replace(asked, subspace="lora")
        if self.builder.chosen(asked.subspace, self.runtime.device, size) != "lora":
            yield "--subspace lora", lora, self.rows
        if asked.save != "adapter":
            yield "--subspace lora --save adapter", replace(lora, save="adapter"), self.rows
        for context in CONTEXTS:
            if context < self.rows.longest:
                yield f"--subspace lora --context {context}", lora, self.rows.cut(context)

    def _cost(self, name: str, subspace: str, work: Workload, used: Memory) -> Cost:
        forward, training = self._curves(subspace)
        plain, head = self._curves("full")[0], self.builder.plain().head
        step_flops = work.steps / work.sampled * _flops(training, work.drawn)
        step_flops += sum(times * _flops(training, [shape]) for times, shape in work.passed)
        measured = _flops(forward, work.checked) + _flops(plain, work.measured)
        generated = sum(plain.generating(one.windows, one.prompt, one.new, head) for one in work.generated)
        rates = self._rates(subspace, _typical(work.trained))
        moving = self.builder.blueprint(subspace, torch.float32).moving
        updates = work.steps + work.updates
        seconds = step_flops / rates.training + updates * moving * rates.updating
        seconds += measured / rates.measuring + generated / rates.generating
        return Cost(name, subspace, updates, step_flops, measured + generated, used, seconds)


def _flops(curve: Curve, shapes: Iterable[Shape]) -> float:
    return sum(curve.of(windows, tokens) for windows, tokens, _ in shapes)


def _typical(shapes: Sequence[Shape]) -> tuple[int, int]:
    """Windows and tokens of the batch that has the median number of tokens."""
    ordered = sorted(shapes, key=lambda shape: shape[0] * shape[1])
    windows, tokens, _ = ordered[len(ordered) // 2]
    return windows, tokens
