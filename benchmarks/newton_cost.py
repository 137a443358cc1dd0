"""What margin_newton costs, as ratios in one run on one machine.

    python benchmarks/newton_cost.py --output docs/results

Writes newton_cost.md and newton_cost.json there. Times are processor time of one thread, so that other work on the
machine counts little; each round times every pass once, and a ratio is the median over rounds.

- *Factors*: the pass that fits K-FAC over a plain forward and backward of the same layers, rows and logits.
- *Iteration*: pairs, Gram matrix, solve and step of a request over a training step (forward, backward, AdamW) on the
  same rows. What is measured afterwards, a forward pass, counts with it.
- *Second request*: an unlearning of all of the demo's forget rows, and of three, with factors that are given, over one
  that fits its own.
- *Unlearning over retraining*, as `expunge plan` has them: fictional people, all other rows given, 30 epochs; a share
  of the rows to forget, one model. `with measuring` is the whole of `expunge unlearn`, its evidence and its report.
"""

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from curvature_cost import Shape, plain, prepare, seconds
from curvature_cost_page import quartiles
from expunge import pipeline
from expunge.config.commands import Plan
from expunge.curvature import Whitening, damping_for
from expunge.curvatures.kfac import KFAC
from expunge.data import fiction
from expunge.demo.models import RENDERING, cached_models, write_rows
from expunge.demo.tiny import byte_tokenizer, llama
from expunge.gradients.factors import factors
from expunge.influence import dual
from expunge.influence.margin_pairs import margin_pairs
from expunge.influence.needs import Tokens
from expunge.model.layers import linear_weights
from expunge.model.losses import target_ids, target_logits
from expunge.model.save import write
from expunge.problem import Problem, Split
from expunge.reference.cache import row_losses
from expunge.runs.distributed import Runtime
from expunge.runs.environment import environment
from in_memory import opened, unlearned

BARS = {"factors": 1.6, "iteration": 2.5, "second request, 50 rows": 0.7, "second request, 3 rows": 0.7}
SHARES, SIZES, ROWS_A_PERSON = (0.01, 0.03, 0.1), (300, 3000), 5
GOAL = 0.1  # of retraining, at a hundredth of 3,000 rows


@dataclass(frozen=True, slots=True)
class Passes:
    """What is timed, on one model with random weights whose linear layers move."""

    problem: Problem
    split: Split
    batches: Any
    whitening: Any
    optimiser: torch.optim.Optimizer

    @classmethod
    def of(cls, shape: Shape, device: str) -> "Passes":
        bench = prepare(shape, Runtime(device))
        problem, split = bench.full, bench.split
        state = KFAC().init(problem, split)
        whitening: dict[str, Whitening] = dict(KFAC().whitening(problem, state, damping_for(state, 0.01)))
        forget = replace(problem, splits={"forget": split, "retain": split})
        return cls(forget, split, bench.batches, whitening, torch.optim.AdamW(list(problem.movable.values()), lr=0.0))

    def factors(self) -> None:
        factors(self.problem, self.split, linear_weights(self.problem.model, self.problem.movable), "noise")

    def plain(self) -> None:
        plain(self.problem, self.batches)

    def step(self) -> None:
        """A step of training: gradients and AdamW, whose rate is 0."""
        for batch in self.batches:
            torch.nn.functional.cross_entropy(*_targets(self.problem, batch.to(self.problem.runtime.device))).backward()
        self.optimiser.step()
        self.optimiser.zero_grad()

    def iteration(self) -> None:
        """What a removal does, but for moving the weights by it; as many needs of one."""
        owners = torch.tensor([w.row for w in self.split.windows for _ in range(w.targets)])
        ones = torch.ones(len(owners), dtype=torch.float64)
        tokens = Tokens(owners, ones, ones, len(self.split.rows))
        pairs, tokens = margin_pairs(self.problem, self.split, tokens, self.whitening)
        found = dual.solved(pairs.gram, tokens.weighted(torch.ones(tokens.count, dtype=torch.float64)), 0.01)
        pairs.combined(found.weights)
        row_losses(self.problem, self.problem.model, self.split)


def _targets(problem: Problem, batch: Any) -> tuple[Tensor, Tensor]:
    return target_logits(problem.model, batch), target_ids(batch)


def timed(passes: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(rounds + 1):
        for name, work in passes.items():
            taken = seconds(work, device)
            if number:  # the first warms up
                found[name].append(taken)
    return found


def over(times: dict[str, list[float]], name: str, other: str) -> tuple[float, float, float]:
    return quartiles([one / two for one, two in zip(times[name], times[other], strict=True)])


def second_request(problem: Problem) -> tuple[float, float, float]:
    """Processor time of an unlearning with given factors over that of one that fits its own."""
    states: list[Any] = []
    init = KFAC.init

    def remembered(self: KFAC, problem: Problem, split: Split) -> Any:
        states.append(init(self, problem, split))
        return replace(states[-1], tensors=dict(states[-1].tensors))

    KFAC.init = remembered  # type: ignore[method-assign]
    unlearned(problem, "margin_newton", {}, 0)
    KFAC.init = init  # type: ignore[method-assign]
    state = states[0].state_dict()
    given = replace(problem, fitted=lambda problem: state | {"tensors": dict(state["tensors"])})
    times = timed(
        {
            "first": lambda: unlearned(problem, "margin_newton", {}, 0) and None,
            "second": lambda: unlearned(given, "margin_newton", {}, 0) and None,
        },
        3,
        problem.runtime.device,
    )
    return over(times, "second", "first")


def planned(count: int, folder: Path) -> Iterator[dict[str, Any]]:
    """Of a fine-tune of so many rows: what forgetting a share of them takes beside training on the others."""
    rows = fiction.rows(fiction.people(count // ROWS_A_PERSON + 60, 0), "rows")
    train, others = rows[:count], rows[count:]
    tokenizer = byte_tokenizer((f"{row.prompt} {row.completion}" for row in train), 512)
    model = llama(tokenizer, width=128, layers=4, heads=4, context=RENDERING.context, seed=0)
    for name in ("original", "base"):
        if not (folder / name).exists():
            write(model, tokenizer, folder / name, torch.float32)
    settings = folder / "train.yaml"
    settings.write_text("epochs: 30\nlearning_rate: 1.0e-3\nbatch_rows: 16\n", encoding="utf-8")
    for share in SHARES:
        forget = round(share * count)
        for name, own in (("forget", train[:forget]), ("retain", train[forget:]), ("train", train)):
            write_rows(folder / f"{name}.jsonl", own)
        write_rows(folder / "holdout.jsonl", others)
        files = {name: str(folder / f"{name}.jsonl") for name in ("forget", "retain", "train", "holdout")}
        models = {name: str(folder / where) for name, where in (("model", "original"), ("base", "base"))}
        config = Plan(method="margin_newton", train_config=str(settings), join="space", **models, **files)
        found = pipeline.run_plan(config).estimate
        (cost,), retraining = found.methods, found.retraining
        assert retraining is not None
        alone = cost.seconds - cost.measuring_seconds
        yield {
            "rows": count,
            "forget": forget,
            "row_passes": cost.row_passes / forget,
            "passes": cost.row_passes / retraining.row_passes,
            "time": alone / retraining.seconds,
            "with_measuring": cost.seconds / retraining.seconds,
        }


def page(results: dict[str, Any]) -> str:
    lines = ["# What margin_newton costs", "", "Made by `python benchmarks/newton_cost.py --output docs/results`.", ""]
    lines += ["| ratio | median (quartiles) | bar |", "| --- | --- | --- |"]
    for name, (low, middle, high) in results["ratios"].items():
        bar = BARS[name]
        met = "met" if middle <= bar else "missed"
        lines.append(f"| {name} | {middle:.2f} ({low:.2f} to {high:.2f}) | at most {bar}: {met} |")
    lines += ["", "Unlearning over retraining, as `expunge plan` has them on this machine:", ""]
    lines += ["| rows trained in | to forget | row passes a forget row | row passes | time | with measuring |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {one['rows']:,} | {one['forget']} | {one['row_passes']:.0f} | {one['passes']:.3f} | {one['time']:.3f} | "
        f"{one['with_measuring']:.3f} |"
        for one in results["planned"]
    ]
    goal = next(one for one in results["planned"] if one["rows"] == max(SIZES) and one["forget"] == max(SIZES) / 100)
    met = "met" if goal["with_measuring"] <= GOAL else "missed"
    lines += ["", f"The goal is {GOAL} at a hundredth of {max(SIZES):,} rows, with measuring: {met}.", ""]
    machine = results["environment"]
    where = f"{machine['machine']}, torch {machine['versions']['torch']}"
    lines += [f"{results['rounds']} rounds, one thread; {where}.", "", *(__doc__ or "").split("\n\n", 2)[2:]]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    passes = Passes.of(
        Shape(width=512, layers=4, vocabulary=8000, tokens=128, batch=8, batches=2, rank=16), given.device
    )
    names = ("factors", "plain", "iteration", "step")
    device = passes.problem.runtime.device
    times = timed({name: getattr(passes, name) for name in names}, given.rounds, device)
    results: dict[str, Any] = {
        "rounds": given.rounds,
        "seconds": times,
        "ratios": {"factors": over(times, "factors", "plain"), "iteration": over(times, "iteration", "step")},
        "environment": environment(),
    }
    demo = opened(cached_models(0, print)).problem
    few = {**demo.splits, "forget": demo.splits["forget"].of([0, 1, 2], "forget")}
    for problem in (demo, replace(demo, splits=few, base=None, base_margins=None)):
        rows = len(problem.splits["forget"].rows)
        results["ratios"][f"second request, {rows} rows"] = second_request(problem)
    results["planned"] = []
    for count in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            results["planned"] += list(planned(count, Path(folder)))
    text = page(results)
    print(text)
    if given.output:
        given.output.mkdir(parents=True, exist_ok=True)
        (given.output / "newton_cost.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
        (given.output / "newton_cost.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
