"""What unlearning and retraining would cost: adds up what each part of a run says it costs.

Passes become FLOPs, peak memory and time on this machine, and what fits into how much memory.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import psutil
import torch

from expunge.attack import Level
from expunge.config.commands import Unlearning
from expunge.config.lora import is_lora
from expunge.curvature import STATE_SHARE
from expunge.data.passes import Passes, Shape, Weighed, measuring
from expunge.data.rows import Row
from expunge.data.tokens import encode
from expunge.evaluation import attacked, evidence
from expunge.evaluation.attacked import LEVELS
from expunge.intake import assembly
from expunge.intake.sets import benchmark_of
from expunge.loop import delivery, phases, training
from expunge.loop.training import Training
from expunge.method import Method, Needs
from expunge.model import generation, quantised
from expunge.model.choice import Choice, choose
from expunge.model.load import DTYPES
from expunge.model.select import choose_of_adapter, moving
from expunge.model.trace import Blueprint, Curve
from expunge.planning import memory
from expunge.planning.memory import Builder, Memory, Setting
from expunge.planning.rows import Rows
from expunge.planning.speed import Rates, Speed
from expunge.runs import memory as machine
from expunge.runs.distributed import Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

CONTEXTS = (512, 256, 128)


@dataclass(frozen=True, slots=True)
class Cost:
    """Steps; row passes of them; FLOPs of them and of measuring and generating; peak memory; seconds without files, of
    the whole; and of these what measuring the models takes beside (generating counts in seconds, not in row passes);
    which linear layers move, where the method moves those alone; row passes of steps that may turn out to be needed."""

    name: str
    subspace: str
    steps: int
    row_passes: float
    step_flops: float
    other_flops: float
    memory: Memory
    seconds: float
    measuring_passes: float
    measuring_seconds: float
    linear: Choice | None = None
    spare_passes: float = 0.0


@dataclass(frozen=True, slots=True)
class Fit:
    """Whether a run with these flags (none: as asked) fits: its subspace, its peak in bytes, what is done then."""

    flags: str
    subspace: str
    peak: int
    when: str
    fits: bool
    linear: Choice | None = None


@dataclass(frozen=True, slots=True)
class Estimate:
    """All of a plan's figures. `missing`: methods that need an input that was not given, and which;
    `refused`: those that cannot work on this model, and why.

    `room`: by a memory's name, what was tried with it, the last one first to fit; `interpreter`: bytes that Python
    and its libraries take beside (0 where the memory is a GPU's). `share`: of all rows that are known to have been
    trained in, how much is to go; None where nothing but those is known. `attacks`: what the attacks of each level of
    evidence take, by level.
    """

    methods: tuple[Cost, ...]
    missing: Mapping[str, str]
    refused: Mapping[str, str]
    retraining: Cost | None
    room: Mapping[str, tuple[Fit, ...]]
    interpreter: int
    share: float | None = None
    attacks: Mapping[str, Passes] = field(default_factory=dict)


class Work(NamedTuple):
    """What a run takes: the steps of the method (or the training) with its `init`, and all that is measured beside;
    `spare`: row passes of steps that may turn out to be needed."""

    steps: Passes
    beside: Passes
    spare: float = 0.0


class Estimator:
    """Costs of one model, its rows and this machine. What takes time (traces, timings) is done once."""

    def __init__(
        self, config: Unlearning, shape: "PreTrainedConfig", rows: Rows, runtime: Runtime, stored: torch.dtype
    ) -> None:
        self.config, self.rows, self.runtime = config, rows, runtime
        on_cpu = runtime.device.type == "cpu"
        self.interpreter = psutil.Process().memory_info().rss if on_cpu else 0
        self.free, self.size = machine.free(runtime.device), machine.usable(runtime.device)
        shipped = stored if config.dtype == "auto" else DTYPES[config.dtype]
        self.given, self.scheme = rows.checked.model.adapter is not None, quantised.scheme(shape)
        saved = "adapter" if self.given and config.save_as == "auto" else config.save_as
        others = {"retrained model": config.retrained, "base": config.base, "first model": rows.checked.first}
        other = next((name for name, path in others.items() if path), "")
        self.setting = Setting(config.subspace, saved, shipped, other)
        self.builder = Builder(shape, stored, config.trust_remote_code, config.gradient_checkpointing)
        self._curves = cache(
            lambda subspace: self.builder.stack(subspace, torch.float32).curves(rows.longest, training=True)
        )
        self._speed = Speed(shape, runtime, config.trust_remote_code)

    def unlearning(self, name: str, method: Method) -> Cost:
        """The cost of one method."""
        setting = self._set(method, self.size)
        subspace = self.builder.chosen(setting.subspace, self.runtime.device, self.size)
        linear, needs = self._linear(method.needs, self.rows, subspace, setting.subspace, self.size)
        work = self._work(method, self.rows, subspace, needs)
        used = memory.unlearning(self.builder, needs, work.steps, work.beside, setting, self.runtime.device, self.size)
        moving = self._made(needs, subspace).moving
        return replace(self._cost(name, subspace, moving, work, used), linear=linear, spare_passes=work.spare)

    def row_passes(self, method: Method) -> float:
        """Of one method's steps, at most; nothing is timed."""
        subspace = self.builder.chosen(self._set(method, self.size).subspace, self.runtime.device, self.size)
        return self._work(method, self.rows, subspace).steps.row_passes

    def row_passes_anew(self, kept: Sequence[Row], chosen: Training) -> float:
        """Of training on the rows that are left."""
        windows = encode(kept, self.rows.rendering, self.rows.tokenizer)
        return training.cost(windows, chosen, self.config.seed).row_passes

    def _set(self, method: Method, free: int) -> Setting:
        """What decides the memory of a method's run: own matrices of an adapter are planned for as our own LoRA."""
        asked, linear = self.setting.subspace, method.needs.linear is not None
        if not self.given:
            return self.setting
        total = self.builder.plain().total
        name, _ = choose_of_adapter(asked, linear, self.scheme, total, self.runtime.device, free)
        return replace(self.setting, subspace="lora" if name == "adapter" else name)

    def retraining(self, kept: Sequence[Row], chosen: Training) -> Cost:
        """The cost of the retrained twin on the rows that are left."""
        windows = encode(kept, self.rows.rendering, self.rows.tokenizer)
        work = Work(training.cost(windows, chosen, self.config.seed), Passes(plain=measuring(windows, 2)))
        asked = "lora" if chosen.subspace == "adapter" else chosen.subspace
        subspace = self.builder.chosen(asked, self.runtime.device, self.size)
        used = memory.retraining(self.builder, work.steps, work.beside, subspace, self.runtime.device, self.size)
        moving = self.builder.blueprint(subspace, torch.float32).moving
        return self._cost("retraining", subspace, moving, work, used)

    def room(self, method: Method, free: int, size: int) -> tuple[Fit, ...]:
        """Whether a run fits into so many free bytes as it is asked for, and else with which flags. `size`: bytes that
        choices count on.

        A curvature may take `STATE_SHARE` of what the weights leave, or it is refused when it is fitted.
        """
        tried: list[Fit] = []
        for flags, setting, rows in self._variants(self._set(method, size), size):
            subspace = self.builder.chosen(setting.subspace, self.runtime.device, size)
            linear, needs = self._linear(method.needs, rows, subspace, setting.subspace, size)
            work = self._work(method, rows, subspace, needs)
            used = memory.unlearning(self.builder, needs, work.steps, work.beside, setting, self.runtime.device, size)
            weights = self.builder.blueprint(subspace, self.builder.working_dtype(setting.subspace, size)).weight_bytes
            refused = work.steps.bytes > STATE_SHARE * max(0, free - weights)
            peak, when = used.peak + self.interpreter, "fitting the curvature" if refused else used.when
            tried.append(Fit(flags, subspace, peak, when, peak <= free and not refused, linear))
            if tried[-1].fits:
                break
        return tuple(tried)

    def _variants(self, asked: Setting, size: int) -> Iterable[tuple[str, Setting, Rows]]:
        yield "", asked, self.rows
        name = asked.subspace if is_lora(asked.subspace) else "lora"
        lora, flag = replace(asked, subspace=name), f"--subspace {'adapter' if self.given else name}"
        if not is_lora(self.builder.chosen(asked.subspace, self.runtime.device, size)):
            yield flag, lora, self.rows
        if asked.save != "adapter":
            yield f"{flag} --save-as adapter", replace(lora, save="adapter"), self.rows
        for context in CONTEXTS:
            if context < self.rows.longest:
                yield f"{flag} --context {context}", lora, self.rows.cut(context)

    def _made(self, needs: Needs, subspace: str) -> Blueprint:
        which = needs.linear.which if needs.linear else ""
        found: Blueprint = self.builder.blueprint(subspace, torch.float32, needs.layers, which)
        return found

    def _linear(self, needs: Needs, rows: Rows, subspace: str, asked: str, size: int) -> tuple[Choice | None, Needs]:
        """Which linear layers would move with so much usable memory, and the needs with them in place of `auto`."""
        if needs.linear is None:
            return None, needs
        model = self.builder.plain().model
        left = size - self.builder.blueprint(subspace, self.builder.working_dtype(asked, size)).weight_bytes
        tokens = needs.tokens(rows.problem(self.runtime, self.config.seed, earlier=needs.earlier))
        unfit, shared = self.builder.unfit(), self.builder.shared()
        found = choose(model, needs.linear, moving(model, subspace), left, shared, unfit, tokens)
        return found, replace(needs, linear=replace(needs.linear, which=found.which))

    def _work(self, method: Method, rows: Rows, subspace: str, needs: Needs | None = None) -> Work:
        """`needs`: the method's own with its linear layers chosen; else by the size of this machine's memory."""
        if needs is None:
            asked = self._set(method, self.size).subspace
            needs = self._linear(method.needs, rows, subspace, asked, self.size)[1]
        problem = rows.problem(self.runtime, self.config.seed, self._made(needs, subspace).movable, needs.earlier)
        if needs.linear:
            problem.shared, problem.adapter = self.builder.shared(), is_lora(subspace) and not self.given
        problem.fitted = (lambda problem: {}) if self.config.curvature else None
        found = phases.cost(method, problem)
        beside = assembly.cost(problem, self.config) + rows.samples.passes + delivery.cost(problem)
        batch = generation.batch_size(self.builder.plain().total)
        generating = benchmark_of(self.config).generating
        judging = evidence.cost(problem, rows.judged(generating.most_kept), ("samples",), generating, batch)
        models = 2 + bool(self.config.retrained)  # the original, what was written, and the twin
        under = self._attacks(rows, self.config.evidence)
        work = Work(found.before + found.phases, beside + judging.times(models) + under, found.spare)
        tokens = self.config.batch_tokens
        return work if tokens == "auto" else Work(work.steps.cut(tokens), work.beside.cut(tokens), found.spare)

    def attacks(self) -> dict[str, Passes]:
        """What the attacks of each level of evidence take, whatever the method."""
        return {level: self._attacks(self.rows, level) for level in LEVELS if level != "quick"}

    def _attacks(self, rows: Rows, level: Level) -> Passes:
        problem, batch = rows.problem(self.runtime, self.config.seed), generation.batch_size(self.builder.plain().total)
        return attacked.cost(problem, rows.judged(None), level, batch, bool(self.config.retrained))

    def _cost(self, name: str, subspace: str, moving: int, work: Work, used: Memory) -> Cost:
        steps, every = work.steps, work.steps + work.beside
        step_flops = _flops(self._curves(subspace)[1], steps.trained)
        rates = self._speed.rates(subspace, *_typical(steps.trained or every.plain))
        seconds, measuring = (self._seconds(passes, subspace, moving, rates) for passes in (steps, work.beside))
        looked, texts = self._looked(every, subspace), self._texts(every)
        return Cost(
            name,
            subspace,
            round(steps.updates),
            steps.row_passes,
            step_flops,
            looked + every.products + sum(reading + going_on for _, reading, going_on in texts),
            used,
            seconds + measuring,
            work.beside.row_passes,
            measuring,
        )

    def _seconds(self, passes: Passes, subspace: str, moving: int, rates: Rates) -> float:
        trained = (_flops(self._curves(subspace)[1], passes.trained) + passes.products) / rates.training
        texts = self._texts(passes)
        looked = self._looked(passes, subspace) + sum(reading for _, reading, _ in texts)
        generated = sum(going_on / self._speed.going_on(windows) for windows, _, going_on in texts)
        return trained + passes.updates * moving * rates.updating + looked / rates.measuring + generated

    def _looked(self, passes: Passes, subspace: str) -> float:
        """FLOPs of forward passes alone."""
        return _flops(self._curves(subspace)[0], passes.measured) + _flops(self._curves("full")[0], passes.plain)

    def _texts(self, passes: Passes) -> list[tuple[int, float, float]]:
        """Of each batch that is generated: texts, FLOPs of reading their prompts, and of what is made after these."""
        plain, head = self._curves("full")[0], self.builder.plain().head
        return [
            (one.windows, plain.reading(one.windows, one.prompt, head), plain.going_on(*one))
            for one in passes.generated
        ]


def _flops(curve: Curve, passes: Weighed) -> float:
    return sum(times * curve.of(shape.windows, shape.width, shape.targets) for times, shape in passes)


def _typical(passes: Weighed) -> tuple[int, int]:
    """Windows and tokens of the batch that has the median number of tokens."""
    ordered: list[Shape] = sorted((shape for _, shape in passes), key=lambda shape: shape.windows * shape.width)
    middle = ordered[len(ordered) // 2]
    return middle.windows, middle.width
