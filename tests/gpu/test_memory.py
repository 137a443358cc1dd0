"""`--batch-tokens auto` on a GPU whose memory is really short: `python -m pytest tests/gpu` on a machine that has one.

Skipped, with the reason, where torch sees no CUDA device.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from expunge.loop.phases import apply
from expunge.methods.gradient_difference import GradientDifference
from expunge.problem import Problem
from expunge.runs.distributed import Runtime
from problems import split_of, text_problem

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device")
METHOD = GradientDifference(epochs=2, forget_rows=32, learning_rate=1e-4)
NEAR = 1e-6  # of a step of 1e-4; norms round to float32, and other batch shapes round otherwise


def problem_on_a_gpu() -> Problem:
    """A Llama in float64 whose activations for 32 windows of 250 tokens are about a gibibyte."""
    runtime = Runtime("cuda")
    runtime.precision = "no"
    splits = {
        name: split_of(name, (1,) * 32, seed, lengths=(230, 250), ids=(2, 258), share=1.0)
        for seed, name in enumerate(("forget", "retain"))
    }
    sizes = {"width": 256, "layers": 4, "heads": 4, "context": 256}
    return text_problem(splits, dtype=torch.float64, runtime=runtime, **sizes)


@contextmanager
def at_most(size: int) -> Iterator[None]:
    """The device with so many bytes for this process."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, size / total))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def undisturbed() -> tuple[dict[str, Tensor], int, int]:
    """Weights after a run, and the bytes before it and at its peak."""
    problem = problem_on_a_gpu()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    apply(METHOD, problem, lambda entry: None)
    assert not problem.portions.halvings
    return (
        {name: tensor.cpu() for name, tensor in problem.snapshot().items()},
        before,
        torch.cuda.max_memory_allocated(),
    )


def test_batches_are_halved_and_the_weights_stay() -> None:
    expected, before, peak = undisturbed()
    problem = problem_on_a_gpu()
    with at_most(before + int(0.6 * (peak - before))):
        apply(METHOD, problem, lambda entry: None)
    assert problem.portions.halvings and problem.portions.tokens
    for name, tensor in problem.snapshot().items():
        assert (tensor.cpu() - expected[name]).abs().max() <= NEAR, name
