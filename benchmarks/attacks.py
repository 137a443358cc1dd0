"""Forget rows under attack: rounding of the weights, and relearning half of the rows.

    python benchmarks/attacks.py WORLD [WORLD ...] --output build/attacks.jsonl [--models original retrained ...]
    python benchmarks/attacks.py --output build/attacks.jsonl --table

A world is a folder as benchmarks/in_memory.py reads it. Models: `original`, `retrained` (both are there), and methods
with their options, such as `margin_newton:durable_rounds=3`, run in memory. Attacks: none (`written`), linear weights
rounded to 8 and 4 bits (symmetric, to nearest, groups of 64 inputs), and half of the forget rows relearned (all
weights, AdamW at 3e-4, 16 rows a step, 5 and 30 steps), after which the *other* half is measured, and the half itself.
Then all rows, after as many steps on text that has nothing to do with them (`expunge.attacks.relearning`).
Halves are dealt by a hash that no durable round uses: by row, and by person (rows of a world come five to a person), so
that no fact of the others is among what is relearned. Each half of each dealing is relearned once. One JSON line a
cell; the same command goes on after an interruption.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.attacks.relearning import unrelated
from expunge.attacks.rounding import even, round_all
from expunge.files import strict_yaml
from expunge.loop.relearning import relearn
from expunge.problem import Problem, Split
from in_memory import Cells, Unlearned, World, movable, opened, seen, unlearned

MODELS = ("original", "retrained", "loss_matching")
MODELS += tuple(f"margin_newton:durable_rounds={rounds}" for rounds in (0, 1, 3))
STEPS = (5, 30)
A_PERSON = 5  # rows of a world


@dataclass(frozen=True, slots=True)
class Dealing:
    """Rows dealt into halves: one by one, or five by five as a world has them of a person."""

    name: str
    together: int
    salt: int

    def halves(self, split: Split) -> tuple[list[int], list[int]]:
        groups = [split.rows[place : place + self.together] for place in range(0, len(split.rows), self.together)]
        order = sorted(range(len(groups)), key=lambda place: groups[place][0].digest(f"attack {self.salt}"))
        chosen = set(order[::2])
        mine = [place for place in range(len(split.rows)) if place // self.together in chosen]
        return mine, sorted(set(range(len(split.rows))) - set(mine))


DEALINGS = (Dealing("rows", 1, 0), Dealing("rows", 1, 1), Dealing("people", A_PERSON, 0))


def quantised(problem: Problem, bits: int) -> Problem:
    made = movable(problem)
    round_all(made.model, even(bits))
    return made


def under_attack(problem: Problem, forget: Split) -> Iterator[dict[str, Any]]:
    """Figures of the forget rows, attack by attack."""
    yield {"attack": "written"} | seen(problem, forget).figures()
    for bits in (8, 4):
        yield {"attack": f"{bits} bits"} | seen(quantised(problem, bits), forget).figures()
    for dealing in DEALINGS:
        halves = dealing.halves(forget)
        for number, (mine, others) in enumerate((halves, halves[::-1])):
            place = {"dealing": dealing.name, "salt": dealing.salt, "half": number}
            rows = torch.zeros(len(forget.rows), dtype=torch.bool)
            rows[others] = True
            yield {"attack": "before relearning"} | place | seen(problem, forget).figures(rows)
            for trained in relearn(movable(problem), forget.of(mine, "half"), STEPS, number):
                found = seen(trained.problem, forget)
                itself = {f"{name} relearned": value for name, value in found.figures(~rows).items()}
                yield {"attack": f"relearned {trained.steps}"} | place | found.figures(rows) | itself
    for trained in relearn(movable(problem), unrelated(problem), STEPS, 0):
        yield {"attack": f"unrelated text {trained.steps}"} | seen(trained.problem, forget).figures()


def model_of(world: World, name: str, seed: int) -> tuple[Problem, dict[str, Any]]:
    """A model of the world, with what it cost in row passes for each forget row and what became of other rows."""
    if name in ("original", "retrained"):
        problem, price = world.model(name), None
    else:
        method, _, given = name.partition(":")
        options = strict_yaml.parse("{" + given.replace("=", ": ") + "}", name)
        run: Unlearned = unlearned(world.problem, method, options, seed)
        problem, price = run.problem, round(run.outcome.row_passes / len(run.problem.splits["forget"].rows), 1)
    others = {}
    for split in ("retain", "collateral", "judging"):
        others |= {
            f"{split} {what}": value for what, value in seen(problem, world.assembled.judged[split]).figures().items()
        }
    return problem, {"row_passes": price} | others


def run(world: World, models: list[str], seed: int, cells: Cells) -> None:
    for name in models:
        key = {"world": world.name, "model": name, "seed": seed}
        if cells.has(**key, done=True):
            continue
        problem, figures = model_of(world, name, seed)
        for cell in under_attack(problem, world.problem.splits["forget"]):
            place = {what: cell.get(what) for what in ("attack", "dealing", "salt", "half")}
            if not cells.has(**key, **place):
                cells.add(**key, **place, **{what: value for what, value in cell.items() if what not in place})
        cells.add(**key, done=True, **figures)


def table(cells: Cells) -> str:
    """Means over worlds, dealings and halves, and the range of the worlds' means in brackets where there are some."""
    models = list(dict.fromkeys(line["model"] for line in cells.lines))
    lines = ["| model | attack | documents | answers | known |", "| --- | --- | --- | --- | --- |"]
    kinds = list(dict.fromkeys((one["attack"], one["dealing"]) for one in cells.lines if "attack" in one))
    for attack, dealing in kinds:
        for model in models:
            found = [
                one
                for one in cells.lines
                if one["model"] == model and one.get("attack") == attack and one.get("dealing") == dealing
            ]
            words = [_range(found, what) for what in ("documents", "answers", "known")]
            lines.append(f"| {model} | {attack}{f', by {dealing}' if dealing else ''} | {' | '.join(words)} |")
    lines += ["", "| model | row passes | " + " | ".join(OTHERS) + " |", "| --- " * (2 + len(OTHERS)) + "|"]
    for model in models:
        found = [one for one in cells.lines if one["model"] == model and one.get("done")]
        lines.append(f"| {model} | {' | '.join(_range(found, what) for what in ('row_passes', *OTHERS))} |")
    return "\n".join(lines)


OTHERS = ("retain documents", "retain answers", "retain known", "collateral documents", "collateral answers")
OTHERS += ("collateral known", "judging documents", "judging answers")


def _range(found: list[dict[str, Any]], what: str) -> str:
    worlds: dict[str, list[float]] = {}
    for one in found:
        if one.get(what) is not None:
            worlds.setdefault(one["world"], []).append(one[what])
    means = [float(np.mean(values)) for values in worlds.values()]
    if not means:
        return ""
    spread = f" ({min(means):.2f} to {max(means):.2f})" if len(means) > 1 else ""
    return f"{np.mean(means):.2f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="*", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    cells = Cells(asked.output)
    for folder in asked.worlds:
        run(opened(folder), asked.models, asked.seed, cells)
    if asked.table:
        print(table(cells))


if __name__ == "__main__":
    main()
