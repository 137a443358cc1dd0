"""Peak memory before a run: against processes that really run, and against the rules that a run follows."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig

import plan_accuracy as program
from expunge.config import commands
from expunge.data.batches import by_length
from expunge.data.tokens import Window
from expunge.intake import assembly
from expunge.planning import memory, workload

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
    "opt full": {"family": "opt", "subspace": "full", "words": 8},
}
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


def work(**changes: Any) -> workload.Workload:
    shapes = workload.measuring(windows(20, 20, 10))
    return workload.Workload(**({"steps": 2, "sampled": 1, "drawn": shapes, "measured": shapes} | changes))


def setting(**changes: Any) -> memory.Setting:
    values = {"subspace": "full", "save": "merged", "shipped": torch.float32, "base": False, "retrained": False}
    return memory.Setting(**(values | changes))


def steps(found: workload.Workload, given: memory.Setting) -> int:
    return memory.unlearning(builder(), found, given, torch.device("cpu"), 2**40).stages["unlearning"]


def test_each_copy_is_counted_once() -> None:
    weights = 4 * builder().plain().total
    one, four = steps(work(snapshots=1), setting()), steps(work(snapshots=4), setting())
    assert four - one == 3 * weights
    assert one > 5 * weights  # weights, gradients, two moments, a snapshot
    assert steps(work(snapshots=1, kept=1000), setting()) - one == 1000 * 8 * 258  # small vocabularies are kept whole
    lora = steps(work(snapshots=1), setting(subspace="lora"))
    assert weights < lora < one + 4 * weights


def test_other_models_and_the_form_of_the_output_count() -> None:
    def stages(**changes: Any) -> dict[str, int]:
        return dict(memory.unlearning(builder(), work(), setting(**changes), torch.device("cpu"), 2**40).stages)

    plain, weights = stages(), 4 * builder().plain().total
    assert "measuring the base" not in plain
    assert stages(base=True)["measuring the base"] == plain["measuring the original"] + weights
    assert stages(retrained=True)["measuring the retrained model"] == plain["measuring the original"] + weights
    half = stages(shipped=torch.bfloat16)
    assert half["saving"] == plain["saving"] + weights // 2
    assert half["measuring what was written"] < plain["measuring what was written"]
    adapter = stages(subspace="lora", save="adapter")["measuring what was written"]
    assert 0 < adapter - plain["measuring the original"] - weights < 4 * weights  # the base again, and two adapters


@pytest.mark.parametrize("subspace", ["auto", "full", "lora"])
@pytest.mark.parametrize("models", [1.0, 2.5])
def test_the_working_dtype_is_that_of_a_run(subspace: str, models: float, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = LlamaConfig(vocab_size=258, hidden_size=64, intermediate_size=128, num_hidden_layers=2)
    made = memory.Builder(shape, torch.bfloat16, trust_remote_code=False)
    free = int(models * 4 * made.plain().total)
    monkeypatch.setattr(assembly, "free_memory", lambda device: free)
    monkeypatch.setattr(assembly.load, "stored_dtype", lambda path, trust: torch.bfloat16)
    from expunge.runs.distributed import Runtime

    given = commands.Unlearn(model="any", subspace=subspace)
    assert made.working_dtype(subspace, free) == assembly._working_dtype(given, shape, Runtime("cpu"))


def test_the_largest_batch_bounds_all() -> None:
    assert workload.largest([(2, 10, 4), (1, 30, 12), (8, 2, 8)]) == (1, 30, 12)
    assert workload.largest([(4, 10, 4), (1, 30, 29)]) == (4, 10, 29)


def test_measuring_groups_as_a_run_does() -> None:
    given = windows(40, 12, 12, 11, 39)
    groups = by_length(given, range(5), 32)
    assert workload.measuring(given) == [(2, 40, 77), (3, 12, 32)]
    assert [len(group) for group in groups] == [2, 3]


def test_limits_cut_what_goes_through_at_once_and_nothing_else() -> None:
    """At most 40 places: 2 windows of 20 at a time, with their share of the targets; 1 where even one is longer."""
    found = workload.cut(work(drawn=[(5, 20, 50), (2, 45, 30)], measured=[(4, 10, 36)], checked=[]), 40)
    assert found.drawn == [(2, 20, 20), (2, 20, 20), (1, 20, 10), (1, 45, 15), (1, 45, 15)]
    assert found.measured == [(4, 10, 36)]
    assert steps(work(drawn=[(8, 20, 152)]), setting()) > steps(workload.cut(work(drawn=[(8, 20, 152)]), 40), setting())
