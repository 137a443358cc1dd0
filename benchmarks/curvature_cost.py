"""What exact per-example curvature costs, as ratios in one run on one machine.

    python benchmarks/curvature_cost.py --output docs/results

Writes curvature_cost.md and curvature_cost.json there. A Llama with random weights and rows of random ids, all of full
length. *Plain* is a forward and backward pass of the same summed loss, through the same logits, with the same
parameters requiring gradients. Runs are interleaved: each round times every pass once, and a ratio is the median over
rounds of what two passes took in the same round. On a CPU the time is processor time of one thread, so that other work
on the machine counts little; on CUDA it is time to the end of the last kernel.

Memory is the rise of the peak of allocated tensor bytes over what was allocated before the pass (the weights), in a
pass that is not timed: on a CPU every allocation and release that PyTorch's profiler saw, on CUDA the allocator's own
peak. Both are exact; resident memory would also hold what allocators keep.
"""

import argparse
import gc
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from curvature_cost_page import FULL_PLAIN, PLAIN, page, ratios
from expunge.curvature import damping_for
from expunge.curvatures.block import Block
from expunge.data.batches import Batch, collate
from expunge.data.rows import Row
from expunge.data.tokens import Rendering, Window
from expunge.gradients.cotangents import Labels
from expunge.gradients.per_example import Squares as SummedSquares
from expunge.gradients.per_example import measure
from expunge.model.losses import target_ids, target_logits
from expunge.model.select import linear_layers
from expunge.problem import Problem, Split
from expunge.runs.distributed import Runtime
from expunge.runs.environment import environment

Squares = dict[str, Tensor]
BARS: tuple[tuple[str, str, str, float], ...] = (  # figure, pass, compared with, at most
    ("time", "per example, noise", PLAIN, 1.15),
    ("time", "per example, data", PLAIN, 1.15),
    ("time", "per example, data", "vmap", 1.0),
    ("memory", "per example, data", "vmap", 1.0),
    ("time", "per example, data", "one at a time", 1.0),
)
MEMORY_SLACK = 1.2  # over the plain pass plus two copies of the trainable parameters


@dataclass(frozen=True, slots=True)
class Shape:
    """The model and its rows; `batches` of `batch` rows make one pass."""

    width: int
    layers: int
    vocabulary: int
    tokens: int
    batch: int
    batches: int
    rank: int


@dataclass(frozen=True, slots=True)
class Bench:
    """One model with LoRA and the same one without, and the rows that every pass goes over."""

    lora: Problem
    full: Problem
    split: Split
    batches: tuple[Batch, ...]

    def passes(self) -> dict[str, Callable[[], Any]]:
        """By name, in the order of the page."""
        return {
            PLAIN: lambda: plain(self.lora, self.batches),
            "per example, noise": lambda: exact(self, self.lora, "noise"),
            "per example, data": lambda: exact(self, self.lora, "data"),
            "vmap": lambda: by_vmap(self.lora, self.batches),
            "one at a time": lambda: one_at_a_time(self.lora, self.batches),
            FULL_PLAIN: lambda: plain(self.full, self.batches),
            "full weights: per example, noise": lambda: exact(self, self.full, "noise"),
            "full weights: per example, data": lambda: exact(self, self.full, "data"),
        }

    def block_passes(self) -> dict[str, Callable[[], Any]]:
        """The block curvature with one gradient per row: its fit, and a solve with nothing factored yet."""
        block = Block(gradients=len(self.split.rows))
        state = block.init(self.lora, self.split)
        vector = {name: torch.ones_like(tensor) for name, tensor in self.lora.movable.items()}

        def solve() -> None:
            state.factors.clear()
            block.solve(self.lora, state, vector, damping_for(state, 0.1))

        return {"block: fit": lambda: block.init(self.lora, self.split), "block: factor and solve": solve}


def prepare(shape: Shape, runtime: Runtime) -> Bench:
    """Two models of random weights, with LoRA and without. B of LoRA is not zero, so A has gradients too."""
    torch.manual_seed(0)
    ids = torch.randint(0, shape.vocabulary, (shape.batch * shape.batches, shape.tokens)).tolist()
    counted = (False,) + (True,) * (shape.tokens - 1)
    windows = tuple(Window(row, tuple(own), counted) for row, own in enumerate(ids))
    rows = tuple(Row("retain", row, "document", "", str(row)) for row in range(len(ids)))
    split = Split("retain", rows, windows)
    lora, full = llama(shape), llama(shape)
    linear = linear_layers(full)
    lora = get_peft_model(lora, LoraConfig(r=shape.rank, lora_alpha=shape.rank, target_modules=linear)).eval()
    for name, tensor in lora.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(tensor, std=0.02)
    for name, tensor in full.named_parameters():
        tensor.requires_grad_(name.removesuffix(".weight") in linear)

    def problem(model: Any) -> Problem:
        model.to(runtime.device)
        movable = {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}
        return Problem(model, None, runtime, Rendering(context=shape.tokens), {"retain": split}, movable=movable)

    starts = range(0, len(windows), shape.batch)
    batches = tuple(collate("retain", windows, range(start, start + shape.batch)) for start in starts)
    return Bench(problem(lora), problem(full), split, batches)


def llama(shape: Shape) -> Any:
    heads = max(1, shape.width // 64)
    config = LlamaConfig(
        vocab_size=shape.vocabulary,
        hidden_size=shape.width,
        intermediate_size=shape.width * 8 // 3,
        num_hidden_layers=shape.layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=shape.tokens,
    )
    return LlamaForCausalLM(config).float().eval()


def plain(problem: Problem, batches: tuple[Batch, ...]) -> None:
    """Forward and backward, gradients accumulated; what a step of training costs without its optimiser."""
    for batch in batches:
        moved = batch.to(problem.runtime.device)
        with problem.runtime.autocast():
            logits = target_logits(problem.model, moved)
        F.cross_entropy(logits, target_ids(moved), reduction="sum").backward()
    for tensor in problem.movable.values():
        tensor.grad = None


def exact(bench: Bench, problem: Problem, labels: Labels) -> Squares:
    """What the diagonal curvature runs, with the hooks set up and taken away."""
    return measure(problem, bench.split, SummedSquares, labels, windows=len(bench.batches[0].rows)).tensors


def by_vmap(problem: Problem, batches: tuple[Batch, ...]) -> Squares:
    """torch.func: the gradient function of one row's loss, mapped over the rows of a batch. Data labels."""
    given = {name: tensor.detach() for name, tensor in problem.movable.items()}

    def loss(parameters: dict[str, Tensor], ids: Tensor) -> Tensor:
        logits = functional_call(problem.model, parameters, (), {"input_ids": ids[None], "use_cache": False}).logits[0]
        return F.cross_entropy(logits[:-1].float(), ids[1:], reduction="sum")

    squares = {name: torch.zeros_like(tensor) for name, tensor in given.items()}
    for batch in batches:
        with problem.runtime.autocast():
            found = vmap(grad(loss), in_dims=(None, 0))(given, batch.ids.to(problem.runtime.device))
        for name, gradients in found.items():
            squares[name] += gradients.square().sum(dim=0)
    return squares


def one_at_a_time(problem: Problem, batches: tuple[Batch, ...]) -> Squares:
    """Ordinary autograd, a row at a time. Data labels."""
    parameters = list(problem.movable.values())
    squares = [torch.zeros_like(tensor) for tensor in parameters]
    for batch in batches:
        moved = batch.to(problem.runtime.device)
        for place in range(len(moved.rows)):
            parts = {key: getattr(moved, key)[place : place + 1] for key in ("ids", "attention", "counted")}
            row = replace(moved, **parts)
            with problem.runtime.autocast():
                logits = target_logits(problem.model, row)
            loss = F.cross_entropy(logits, target_ids(row), reduction="sum")
            for square, gradient in zip(squares, torch.autograd.grad(loss, parameters), strict=True):
                square.addcmul_(gradient, gradient)
    return dict(zip(problem.movable, squares, strict=True))


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        begin = time.perf_counter()
        work()
        torch.cuda.synchronize(device)
        return time.perf_counter() - begin
    begin = time.process_time()
    work()
    return time.process_time() - begin


def memory(work: Callable[[], Any], device: torch.device) -> int:
    """Rise of the peak of allocated bytes over what was there before."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    assert seen.profiler is not None and seen.profiler.kineto_results is not None
    changes = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for change in sorted(changes, key=lambda event: event.start_ns()):
        held += change.nbytes()
        peak = max(peak, held)
    return peak


def operators(work: Callable[[], Any], device: torch.device) -> dict[str, float]:
    """Seconds of each operator itself, without those that it calls."""
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device.type == "cuda")
    with profile(activities=activities) as seen:
        work()
    own = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    return {event.key: getattr(event, own) / 1e6 for event in seen.key_averages() if getattr(event, own) > 0}


def agreement(bench: Bench) -> dict[str, float]:
    """Largest difference of the squares from those of vmap and the loop, relative to each tensor's largest entry."""
    found = exact(bench, bench.lora, "data")
    ways = {"vmap": by_vmap, "one at a time": one_at_a_time}
    off = {}
    for name, way in ways.items():
        other = way(bench.lora, bench.batches)
        off[name] = max(float((found[key] - other[key]).abs().max() / other[key].abs().max()) for key in found)
    return off


def compare(bench: Bench, runs: int) -> dict[str, Any]:
    """Times of all rounds, memory, agreement, bars and, by operator, where the time goes."""
    device, passes = bench.lora.runtime.device, bench.passes() | bench.block_passes()
    off = agreement(bench)
    peaks = {name: memory(work, device) for name, work in passes.items()}  # warms up, too
    times: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(runs):
        order = list(passes)
        for name in order[number % len(order) :] + order[: number % len(order)]:
            times[name].append(seconds(passes[name], device))
            gc.collect()
        print(number + 1, {name: round(taken[-1], 4) for name, taken in times.items()}, flush=True)
    trainable = sum(tensor.numel() * tensor.element_size() for tensor in bench.lora.movable.values())
    shown = (PLAIN, "per example, noise", "per example, data")
    return {
        "precision": "float32" if bench.lora.runtime.precision == "no" else "bfloat16 autocast",
        "seconds": times,
        "memory": peaks,
        "trainable_bytes": trainable,
        "agreement": off,
        "bars": bars(times, peaks, trainable),
        "operators": {name: operators(passes[name], device) for name in shown},
    }


def bars(times: dict[str, list[float]], peaks: dict[str, int], trainable: int) -> list[dict[str, Any]]:
    """Each bar with its figure and whether it is met."""
    found = []
    for figure, name, other, most in BARS:
        ratio = ratios(times, name, other)[1] if figure == "time" else peaks[name] / peaks[other]
        found.append({"figure": figure, "pass": name, "over": other, "ratio": ratio, "most": most})
    for name in ("per example, noise", "per example, data"):
        ratio = peaks[name] / (peaks[PLAIN] + 2 * trainable)
        over = "plain and two copies of the trainable parameters"
        found.append({"figure": "memory", "pass": name, "over": over, "ratio": ratio, "most": MEMORY_SLACK})
    return [bar | {"met": bar["ratio"] <= bar["most"]} for bar in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"width": 512, "layers": 4, "vocabulary": 8000, "tokens": 256, "batch": 8, "rank": 16, "runs": 7}
    for name, size in sizes.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    parser.add_argument("--batches", type=int, help="batches of one timed pass; else 1 on a CPU, 8 on CUDA")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, help="folder for curvature_cost.md and curvature_cost.json")
    given = parser.parse_args()
    torch.set_num_threads(1)
    runtime = Runtime(given.device)
    cuda = runtime.device.type == "cuda"
    batches = given.batches or (8 if cuda else 1)
    shape = Shape(given.width, given.layers, given.vocabulary, given.tokens, given.batch, batches, given.rank)
    found = []
    for precision in dict.fromkeys([runtime.precision, "no"]):
        runtime.precision = precision
        found.append(compare(prepare(shape, runtime), given.runs))
    results = {"shape": asdict(shape), "runs": given.runs, "precisions": found, "environment": environment()}
    results["device"] = torch.cuda.get_device_name(runtime.device) if cuda else "CPU, one thread"
    text = page(results, (__doc__ or "").split("\n\n", 2)[2].strip().splitlines())
    print(text)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "curvature_cost.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (given.output / "curvature_cost.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
