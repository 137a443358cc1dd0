"""Influences of training rows beside training again without each: how far the order is the same.

    OMP_NUM_THREADS=1 python benchmarks/influence_check.py --output build/influence [--worlds 0:25 1:60]

A world SEED:EPOCHS is a base that learnt 120 fictional people and is fine-tuned on ten others (50 rows: a document and
four questions each) for so many epochs: at 25 it half knows them, at 60 by heart. It is trained again 50 times, each
time without one row, and the fall of each other row's mean margin is taken. Spearman's rank correlation over the 49
others, mean over the 50 rows asked about, with an interval of 95 % from drawing those rows anew; and how often the row
with the largest influence is about the same person, as a person would expect. The falls are kept in OUTPUT, so the
figures can be made again.
"""

import argparse
import copy
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from expunge.curvature import Whitening
from expunge.data import fiction
from expunge.data.rows import Row
from expunge.data.tokens import Rendering, encode
from expunge.demo.tiny import byte_tokenizer, llama
from expunge.influence import directions, ranking
from expunge.loop.training import Training, fine_tune
from expunge.methods.margin_newton import MarginNewton
from expunge.model.layers import linear_weights
from expunge.problem import Problem, Split
from expunge.reference.cache import target_margins
from expunge.runs.distributed import Runtime

PEOPLE, OTHERS, EACH = 10, 120, 5
RENDERING = Rendering(end_documents=True, context=256)
PRETRAINING = Training(epochs=6, learning_rate=3e-3, batch_rows=32)
Floats = NDArray[np.float64]


class World:
    """A base, the rows of ten people, and how it is fine-tuned on them."""

    def __init__(self, seed: int, epochs: int) -> None:
        self.seed, self.training = seed, Training(epochs=epochs, learning_rate=2e-3, batch_rows=10)
        people = fiction.people(OTHERS + PEOPLE, seed)
        self.rows = fiction.rows(people[:PEOPLE], "train.jsonl")
        before = fiction.rows(people[PEOPLE:], "before.jsonl")
        self.tokenizer = byte_tokenizer((f"{row.prompt} {row.completion}" for row in before), 384)
        base = llama(self.tokenizer, width=64, layers=2, heads=4, context=256, seed=seed)
        self.base, _ = fine_tune(base, self.tokenizer, before, RENDERING, PRETRAINING, seed, "base")
        self.split = Split("train", tuple(self.rows), tuple(encode(self.rows, RENDERING, self.tokenizer)))

    def tuned(self, rows: list[Row]) -> Any:
        start = copy.deepcopy(self.base)
        return fine_tune(start, self.tokenizer, rows, RENDERING, self.training, self.seed, "tuned")[0].eval()

    def problem(self, model: Any) -> Problem:
        weights = dict(model.requires_grad_(True).named_parameters())
        movable = {name: weights[name] for name in linear_weights(model, weights)}
        splits = {"forget": self.split, "retain": self.split}
        return Problem(model, self.tokenizer, Runtime("cpu"), RENDERING, splits, self.seed, movable=movable)

    def margins(self, model: Any) -> Floats:
        """The mean of each row's."""
        found = target_margins(self.problem(model), model, self.split).double().numpy()
        owners = np.array([window.row for window in self.split.windows for _ in range(window.targets)])
        return np.bincount(owners, weights=found) / np.bincount(owners)

    def falls(self, original: Any, file: Path) -> Floats:
        """[asked, left out]: what is kept, or trained now."""
        if not file.exists():
            known, made = self.margins(original), []
            for place in range(len(self.rows)):
                left = [row for other, row in enumerate(self.rows) if other != place]
                made.append(known - self.margins(self.tuned(left)))
                print(f"{file.stem}: without row {place + 1} of {len(self.rows)}", flush=True)
            np.save(file, np.stack(made, axis=1))
        found: Floats = np.load(file)
        return found


def figures(table: Floats, falls: Floats) -> tuple[str, str]:
    """Mean rank correlation with its interval, and how often the first is about the same person."""
    count = len(table)
    others = [[other for other in range(count) if other != own] for own in range(count)]
    each = np.array([spearmanr(table[q, rest], falls[q, rest]).statistic for q, rest in enumerate(others)])
    draws = np.random.default_rng(0).choice(each, size=(2000, count)).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    first = [max(rest, key=lambda place: table[q, place]) for q, rest in enumerate(others)]
    same = np.mean([place // EACH == q // EACH for q, place in enumerate(first)])
    return f"{each.mean():.2f} ({low:.2f} to {high:.2f})", f"{same:.2f}"


def tables(world: World, falls: Floats, original: Any) -> Mapping[str, Floats]:
    """What is compared: influences through K-FAC and without a curvature; of losses in place of margins; the falls."""
    problem = world.problem(original)
    whitening = directions.fit_on(problem, world.split, MarginNewton(), per_layer=True).whitening(release=True)
    plain = {name: Whitening(None, None, name) for name in whitening}
    ask = functools.partial(ranking.influences, problem, world.split, world.split)
    found = {"influence": ask(whitening).numpy(), "without curvature": ask(plain).numpy()}
    margin = ranking.falling_margin
    ranking.falling_margin = lambda logits, ids, own: ranking.summed_loss(logits, ids, own) / own[:, None]
    try:
        found["loss of the asked row in place of its margin"] = ask(whitening).numpy()
    finally:
        ranking.falling_margin = margin
    return found | {"leave-one-out itself": falls}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--worlds", nargs="+", default=["0:25", "1:60"], metavar="SEED:EPOCHS")
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    lines = ["| world | what | rank correlation | first is the same person |", "| --- | --- | --- | --- |"]
    for name in arguments.worlds:
        seed, epochs = map(int, name.split(":"))
        world = World(seed, epochs)
        original = world.tuned(world.rows)
        falls = world.falls(original, arguments.output / f"falls-{seed}-{epochs}.npy")
        known = float(world.margins(original).mean())
        for what, table in tables(world, falls, original).items():
            lines.append(
                f"| seed {seed}, {epochs} epochs (margin {known:.1f}) | {what} | "
                + " | ".join(figures(table, falls))
                + " |"
            )
    (arguments.output / "table.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
