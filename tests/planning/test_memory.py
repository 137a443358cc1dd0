"""Peak memory before a run: against processes that really run, and against the rules that a run follows."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

import plan_accuracy as program
from expunge.config import commands, flags
from expunge.data.batches import by_length
from expunge.data.passes import Passes, Shape, Texts, Weighed, measuring
from expunge.data.tokens import Window
from expunge.intake import assembly
from expunge.method import Needs
from expunge.model.source import Source
from expunge.planning import memory
from expunge.runs import memory as machine

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
PROGRAM = """
import json, sys, plan_accuracy as program
from pathlib import Path
shape, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
before = program.work(shape, folder, "nothing")["peak"]
print(program.work(shape, folder, "steps")["peak"] - before)
"""
WITHIN = 0.25
SHAPES: dict[str, dict[str, Any]] = {
    "gpt2 full": {"family": "gpt2", "subspace": "full", "words": 4},
    "llama lora": {"family": "llama", "subspace": "lora", "words": 14},
}
NOTHING = Needs()
FEW = {"method": "gradient_difference", "options": {"epochs": 2, "forget_rows": 8}}


def near(planned: float, measured: float) -> bool:
    return abs(planned / measured - 1) <= WITHIN


def risen(shape: dict[str, Any], folder: Path) -> float:
    """By how much a method alone raises the peak of a process of its own that has imported all it needs."""
    command = [sys.executable, "-c", PROGRAM, json.dumps(shape), str(folder)]
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}  # as `plan_accuracy.measured`
    paths = {"PYTHONPATH": os.pathsep.join(filter(None, (BENCHMARKS, os.environ.get("PYTHONPATH"))))}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | at_once | paths)
    assert done.returncode == 0, done.stderr[-2000:]
    return float(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", SHAPES)
def test_peak_of_the_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "ROWS", {"forget": 8, "retain": 8, "holdout": 4})
    shape = SHAPES[name] | FEW
    program.make(shape, tmp_path)
    planned = program.planned(shape, tmp_path).memory.stages["unlearning"]
    measured = risen(shape, tmp_path)
    assert near(planned, measured), (planned, measured)
    # What the check must reject: steps without AdamW's moments, or, where little moves, without what passes keep.
    size = (tmp_path / "model" / "model.safetensors").stat().st_size
    assert not near(planned - 2 * size if shape["subspace"] == "full" else 2 * size, measured)


def windows(*lengths: int) -> list[Window]:
    return [Window(row, (0,) * length, (False,) + (True,) * (length - 1)) for row, length in enumerate(lengths)]


def builder(stored: torch.dtype = torch.bfloat16) -> memory.Builder:
    shape = GPT2Config(vocab_size=258, n_embd=64, n_layer=2, n_head=4, n_positions=64)
    return memory.Builder(shape, stored, trust_remote_code=False)


def work(**changes: Any) -> Passes:
    shapes = measuring(windows(20, 20, 10))
    usual: dict[str, Any] = {"updates": 2, "trained": shapes, "plain": shapes}
    return Passes(**usual | changes)


def setting(**changes: Any) -> memory.Setting:
    values = {"subspace": "full", "save": "merged", "shipped": torch.float32, "other": ""}
    return memory.Setting(**(values | changes))


def stages(found: Passes, given: memory.Setting, needs: Needs = NOTHING) -> dict[str, int]:
    made = memory.unlearning(builder(), needs, found, work(), given, torch.device("cpu"), 2**40)
    return dict(made.stages)


def steps(found: Passes, given: memory.Setting, needs: Needs = NOTHING) -> int:
    return stages(found, given, needs)["unlearning"]


def test_each_copy_is_counted_once() -> None:
    weights = 4 * builder().plain().total
    one, four = steps(work(copies=1), setting()), steps(work(copies=4), setting())
    assert four - one == 3 * weights
    assert one > 5 * weights  # weights, gradients, two moments, a snapshot
    distributions = Counter({"distributions": 1000})  # small vocabularies are kept whole
    assert steps(work(copies=1, kept=distributions), setting()) - one == 1000 * 8 * 258
    assert steps(work(copies=1, kept=Counter({"states": 1000})), setting()) - one == 1000 * 4 * 64
    assert steps(work(copies=1, bytes=12345), setting()) - one == 12345
    lora = steps(work(copies=1), setting(subspace="lora"))
    assert weights < lora < one + 4 * weights


def test_what_a_gpu_does_not_hold_is_not_counted_there() -> None:
    """What is kept of the original lies in main memory; a curvature lies where the weights do."""
    gpu, made = torch.device("cuda"), builder()

    def on_gpu(found: Passes) -> int:
        return memory.unlearning(made, NOTHING, found, work(), setting(), gpu, 2**40).stages["unlearning"]

    plain = on_gpu(work(copies=1))
    assert on_gpu(work(copies=1, kept=Counter({"distributions": 1000, "states": 1000}))) == plain
    assert on_gpu(work(copies=1, bytes=12345)) - plain == 12345


def test_only_the_layers_that_a_method_moves_are_copied() -> None:
    """Of two layers the first: all that an optimiser and snapshots hold is of its size."""
    made = builder()
    first = Needs(layers=lambda count: [0])
    one = sum(tensor.numel() for tensor in made.blueprint("full", torch.float32, first.layers).movable.values())
    assert 0 < one < made.plain().total / 2

    def of_two_copies(needs: Needs) -> int:
        return steps(work(copies=3), setting(), needs) - steps(work(copies=1), setting(), needs)

    assert of_two_copies(NOTHING) == 2 * 4 * made.plain().total
    assert of_two_copies(first) == 2 * 4 * one


def test_work_without_training_needs_no_pass() -> None:
    """Arithmetic on weights alone, which plans once failed at."""
    weights = 4 * builder().plain().total
    assert steps(Passes(copies=1, updates=1), setting()) == pytest.approx(5 * weights, rel=0.5)


def test_other_models_and_the_form_of_the_output_count() -> None:
    def of(**changes: Any) -> dict[str, int]:
        return stages(work(), setting(**changes))

    plain, weights = of(), 4 * builder().plain().total
    assert "measuring the base" not in plain
    assert of(other="base")["measuring the base"] == plain["measuring the original"] + weights
    assert of(other="retrained model")["measuring the retrained model"] == plain["measuring the original"] + weights
    half = of(shipped=torch.bfloat16)
    assert half["saving"] == plain["saving"] + weights // 2
    assert half["measuring what was written"] < plain["measuring what was written"]
    adapter = of(subspace="lora", save="adapter")["measuring what was written"]
    assert 0 < adapter - plain["measuring the original"] - weights < 4 * weights  # the base again, and two adapters


@pytest.mark.parametrize("subspace", ["auto", "full", "lora"])
@pytest.mark.parametrize("models", [1.0, 2.5])
def test_the_working_dtype_is_that_of_a_run(subspace: str, models: float, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = LlamaConfig(vocab_size=258, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
    made = memory.Builder(shape, torch.bfloat16, trust_remote_code=False)
    free = int(models * 4 * made.plain().total)
    monkeypatch.setattr(machine, "usable", lambda device: free)
    source = Source(path="any", trust=flags.Trust(), adapter=None)
    vars(source).update(config=shape, stored_dtype=torch.bfloat16)  # as if they had been read
    from expunge.runs.distributed import Runtime

    given = commands.Unlearn(model="any", subspace=subspace)
    assert made.working_dtype(subspace, free) == assembly._working_dtype(given, source, Runtime("cpu"))


def shaped(*shapes: tuple[int, int, int]) -> Weighed:
    return [(1.0, Shape(windows, width, targets, windows * width)) for windows, width, targets in shapes]


def bound(*shapes: tuple[int, int, int]) -> tuple[int, int, int]:
    return memory.largest(shaped(*shapes))[:3]


def test_the_largest_batch_bounds_all() -> None:
    assert bound((2, 10, 4), (1, 30, 12), (8, 2, 8)) == (1, 30, 12)
    assert bound((4, 10, 4), (1, 30, 29)) == (4, 10, 29)


def test_measuring_groups_as_a_run_does() -> None:
    given = windows(40, 12, 12, 11, 39)
    groups = by_length(given, range(5), 32)
    assert measuring(given) == [(1, Shape(2, 40, 77, 79)), (1, Shape(3, 12, 32, 35))]
    assert [len(group) for group in groups] == [2, 3]
    assert measuring(given, 0) == []


def test_limits_cut_what_goes_through_at_once_and_nothing_else() -> None:
    """At most 40 places: 2 windows of 20 at a time, with their share of the targets; 1 where even one is longer."""
    found = work(trained=shaped((5, 20, 50), (2, 45, 30)), measured=shaped((4, 10, 36)), plain=[]).cut(40)
    assert [shape[:3] for _, shape in found.trained] == [
        (2, 20, 20),
        (2, 20, 20),
        (1, 20, 10),
        (1, 45, 15),
        (1, 45, 15),
    ]
    assert [shape[:3] for _, shape in found.measured] == [(4, 10, 36)]
    whole = work(trained=shaped((8, 20, 152)))
    assert steps(whole, setting()) > steps(whole.cut(40), setting())


def test_the_largest_generation_counts_with_its_keys_and_values() -> None:
    """2 layers, keys and values, of 64 numbers: the wider of a forward pass and of a cache that grows."""
    long, short = ([Texts(4, 30, new)] for new in (2000, 20))
    texts = {new: stages(work(generated=given), setting()) for new, given in (("long", long), ("short", short))}
    assert texts["long"]["measuring the original"] > texts["short"]["measuring the original"]
    cache = builder().generating_pass(Passes(generated=long), torch.float32)
    assert cache >= 4 * 2030 * 2 * 2 * 64 * 4
