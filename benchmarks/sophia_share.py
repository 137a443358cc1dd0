"""Sophia on the demo's model: the share of its step that is unclipped, and whether its curvature is worth having.

    python benchmarks/sophia_share.py --output docs/results/sophia.json [--task training]

Minimises the objective of `loss_matching` (constant pressure), or with `--task training` the cross-entropy by which
the original was trained from its base, for the same number of steps at each learning rate with: AdamW; Sophia; Sophia
whose gamma is set at the first refreshes only; Sophia with a *shuffled* curvature, the same values permuted over the
coordinates of each tensor, always in the same order; Sophia with a curvature of one for all; SOUL as released. Prints
and writes, per run: the share unclipped midway between refreshes and how often it lies in 10 to 50 %; at the end, the
objective over all rows, its parts, and the loss of *other* rows: trained in but given to nothing, or with `--task
training` never seen.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from controls.sophia_identity import ones
from controls.sophia_shuffled import shuffled
from controls.sophia_soul import RULE, SETTINGS
from expunge.data.batches import Batch, Stream, passes
from expunge.data.rows import Row, read
from expunge.data.splits import halve
from expunge.data.tokens import encode
from expunge.demo import models as demo
from expunge.influence.refresh import WithSophia
from expunge.loop.minimise import Minimiser, linear
from expunge.method import Descend, State, Terms
from expunge.methods.loss_matching import LossMatching
from expunge.model import load
from expunge.model.losses import target_nll
from expunge.model.select import select
from expunge.optim.sophia import SophiaSettings
from expunge.optim.stepper import Optimiser, Plain
from expunge.problem import Problem, Split
from expunge.reference.cache import row_losses
from expunge.reporting.proposals import BAND, inside
from expunge.runs.distributed import Runtime
from expunge.runs.environment import environment
from expunge.runs.progress import bar

RUNS: dict[str, Optimiser] = {
    "adamw": Plain(),
    "sophia": WithSophia(),
    "gamma_once": WithSophia(settings=SophiaSettings(unclipped_range=(0.0, 1.0))),
    "shuffled": WithSophia(estimate=shuffled),
    "identity": WithSophia(estimate=ones),
    "soul": WithSophia(settings=SETTINGS, rule=RULE, estimate=None),
}
WARMUP = 6  # steps


@dataclass(frozen=True, slots=True)
class Bench:
    """What every run starts from, its loss and what a step draws; of the `other` rows only the loss is measured."""

    problem: Problem
    state: State
    loss: Callable[[Problem, State, Batch], Terms]
    draws: Mapping[str, int]
    other: Split
    start: dict[str, torch.Tensor]


@dataclass(slots=True)
class Measured:
    """One run; `within` is the share of its checks at which 10 to 50 % were unclipped."""

    run: str
    rate: float
    steps: int
    checks: list[dict[str, Any]] = field(default_factory=list)
    within: float | None = None
    objective: float = float("nan")
    parts: dict[str, float] = field(default_factory=dict)
    other: float = float("nan")
    seconds: float = 0.0


def unlearning(models: Path, seed: int, texts: int) -> Bench:
    """The original, its rows and targets, and the objective of loss_matching."""
    rows = {name: read(models / f"{name}.jsonl", name).rows for name in ("forget", "retain", "holdout", "train")}
    given = {row.content for name in ("forget", "retain") for row in rows[name]}
    parts: dict[str, Sequence[Row]] = {"forget": rows["forget"], "retain": rows["retain"]}
    parts["unseen"] = halve(rows["holdout"]).seen
    parts["other"] = tuple(row for row in rows["train"] if row.content not in given)
    problem, other = problem_of(models / "original", parts, seed)
    torch.manual_seed(seed)
    method = LossMatching(replay_texts=texts)
    state = method.init(problem)
    (phase,) = method.phases(problem, state)
    assert isinstance(phase, Descend)
    return Bench(problem, state, phase.loss, phase.draws, other, problem.snapshot())


def training(models: Path, seed: int, texts: int) -> Bench:
    """The base, the rows that the original was trained on, and their cross-entropy."""
    parts: dict[str, Sequence[Row]] = {
        "retain": read(models / "train.jsonl", "train").rows,
        "other": read(models / "holdout.jsonl", "").rows,
    }
    problem, other = problem_of(models / "base", parts, seed)

    def loss(problem: Problem, state: State, batch: Batch) -> Terms:
        value = target_nll(problem.model, batch).mean()
        return Terms({"loss": value}, value)

    return Bench(problem, State(), loss, {"retain": demo.FINE_TUNING.batch_rows}, other, problem.snapshot())


TASKS = {"unlearning": unlearning, "training": training}


def problem_of(folder: Path, parts: dict[str, Sequence[Row]], seed: int) -> tuple[Problem, Split]:
    """The model with all weights movable and its splits, but for "other", which comes apart."""
    runtime = Runtime("cpu")
    tokenizer = load.load_tokenizer(str(folder))
    model = load.load_model(str(folder), torch.float32, runtime.device).eval()
    rendering = demo.RENDERING  # as it was trained
    splits = {name: Split(name, tuple(part), tuple(encode(part, rendering, tokenizer))) for name, part in parts.items()}
    other = splits.pop("other")
    chosen = select(model, "full", runtime.device)
    return Problem(chosen.model, tokenizer, runtime, rendering, splits, seed, movable=chosen.movable), other


def measure(bench: Bench, name: str, rate: float, steps: int) -> Measured:
    """One run from the start, and what it came to."""
    problem, began, found = bench.problem, time.perf_counter(), Measured(name, rate, steps)
    problem.restore(bench.start)
    pool = {**problem.splits, **bench.state.splits}
    streams = {
        split: Stream(split, pool[split].windows, problem.seed + place)
        for place, split in enumerate(bench.draws)
        if split in pool
    }

    def note(_: str, figures: Mapping[str, Any]) -> None:
        found.checks.append(dict(figures))

    minimiser = Minimiser(
        problem,
        RUNS[name].begin(problem, pool, problem.seed, note),
        streams,
        bench.draws,
        lambda batch: bench.loss(problem, bench.state, batch),
        linear(rate, steps, WARMUP),
        steps,
    )
    with bar(name, steps) as report:
        minimiser.run(lambda step, losses: False, report)
    if found.checks:
        found.within = inside([check["unclipped"] for check in found.checks]) / len(found.checks)
    found.objective, found.parts = objective(bench, pool)
    found.other = float(row_losses(problem, problem.model, bench.other).mean())
    found.seconds = time.perf_counter() - began
    return found


def objective(bench: Bench, pool: dict[str, Split]) -> tuple[float, dict[str, float]]:
    """The objective over all windows of the splits that a step draws from, and its parts."""
    total, parts = 0.0, dict[str, float]()
    for split in (pool[name] for name in bench.draws if name in pool):
        for batch in passes(split.name, split.windows):
            share = len(batch.windows) / len(split.windows)
            with torch.no_grad():
                terms = bench.loss(bench.problem, bench.state, batch.to(bench.problem.runtime.device))
            total += share * float(terms.total)
            for key, value in terms.parts.items():
                parts[key] = parts.get(key, 0.0) + share * float(value)
    return total, parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=Path, help="folder with the demo's models and rows; else they are made")
    parser.add_argument("--task", choices=list(TASKS), default="unlearning")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--rates", type=float, nargs="+", default=[3e-5, 1e-4, 3e-4, 1e-3])
    parser.add_argument("--runs", nargs="+", choices=list(RUNS), default=list(RUNS))
    parser.add_argument("--steps", type=int, default=160)
    parser.add_argument("--texts", type=int, default=128, help="replay texts")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    found: list[dict[str, Any]] = []
    for seed in args.seeds:
        bench = TASKS[args.task](args.models or demo.cached_models(seed, print), seed, args.texts)
        for name, rate in ((name, rate) for name in args.runs for rate in args.rates):
            one = measure(bench, name, rate, args.steps)
            found.append({"seed": seed} | asdict(one))
            within = "" if one.within is None else f"within {one.within:.2f}  "
            parts = " ".join(f"{key} {value:.3f}" for key, value in one.parts.items())
            print(
                f"seed {seed} {name:10} rate {rate:.0e}  objective {one.objective:.3f}  {within}"
                f"other {one.other:.3f}  {parts}  {one.seconds:.0f} s",
                flush=True,
            )
            if args.output:
                settings = {"task": args.task, "steps": args.steps, "texts": args.texts, "within": BAND}
                record = {"settings": settings, "environment": environment(), "runs": found}
                args.output.write_text(json.dumps(record, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
