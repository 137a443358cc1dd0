"""Requests one after the other on one model: does what was removed stay removed, and what becomes of the rest?

    python benchmarks/sequence.py WORLD [WORLD ...] --output build/sequence.jsonl [--method margin_newton:...]
    python benchmarks/sequence.py --output build/sequence.jsonl --table

A world is a folder as benchmarks/in_memory.py reads it, with five rows to a person. People whose rows are given (forget
and retain rows) are drawn by the seed; each request removes `--people` of them from the model that the request before
left, with the rows of all that are not yet removed to keep. After each request: rows removed by it and by earlier ones
beside their targets, answers of the rows still to be kept and of rows in no file, and the price in row passes. The last
line is one request for all of them at once. A sequence that was cut off begins anew.

A method that can is held to the first model, and gets the rows removed earlier (margin_newton:earlier_rows=0: neither).
"""

import argparse
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import torch

from expunge.files import strict_yaml
from expunge.loop.trial import method_of
from expunge.problem import Problem, Split
from in_memory import Cells, Unlearned, opened, seen, unlearned

A_PERSON = 5  # rows of a world
MODELS = ("original", "base")


@dataclass(frozen=True, slots=True)
class Request:
    """Lines of the rows that it removes, of those still to be kept, and how it is named."""

    name: str
    forget: list[str]
    retain: list[str]


def requests(folder: Path, count: int, people: int, seed: int) -> list[Request]:
    """So many requests, and one for all of them at once."""
    lines = [line for name in ("forget", "retain") for line in (folder / f"{name}.jsonl").read_text().splitlines()]
    each = [lines[place : place + A_PERSON] for place in range(0, len(lines), A_PERSON)]
    order = [int(place) for place in np.random.default_rng(seed).permutation(len(each))]
    made = []
    for number in range(count):
        removed, gone = order[number * people : (number + 1) * people], set(order[: (number + 1) * people])
        made.append(Request(str(number + 1), _joined(each, removed), _joined(each, set(order) - gone)))
    every = order[: count * people]
    return [*made, Request("all at once", _joined(each, every), made[-1].retain)]


def _joined(each: Sequence[list[str]], places: Any) -> list[str]:
    return [line for place in sorted(places) for line in each[place]]


def problem_of(world: Path, request: Request) -> Any:
    """The world with the request's rows in place of its own."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name in MODELS:
            (folder / name).symlink_to((world / name).resolve())
        for name in ("holdout", "train"):
            shutil.copy(world / f"{name}.jsonl", folder)
        for name, lines in (("forget", request.forget), ("retain", request.retain)):
            (folder / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return opened(folder)


@dataclass(slots=True)
class Removed:
    """Rows that a request removed, with the target of each."""

    problem: Problem
    targets: torch.Tensor

    def figures(self, now: Problem) -> dict[str, float]:
        """Sums over rows of losses and targets, and of answers that are known."""
        found = seen(replace(now, splits=self.problem.splits), self.problem.splits["forget"])
        known = float((found.right[found.answers] == 1).double().sum())
        sums = {"losses": float(found.losses.sum()), "targets": float(self.targets.sum()), "known": known}
        return sums | {"rows": len(self.targets), "answers": int(found.answers.sum())}


def run(folder: Path, asked: argparse.Namespace, cells: Cells) -> None:
    key = {"world": folder.name, "method": asked.method, "seed": asked.seed}
    if cells.has(**key, request="all at once"):
        return
    cells.lines = [line for line in cells.lines if any(line[name] != value for name, value in key.items())]
    method, _, given = asked.method.partition(":")
    options = strict_yaml.parse("{" + given.replace("=", ": ") + "}", asked.method)
    model, earlier, others = None, list[Removed](), None
    for request in requests(folder, asked.requests, asked.people, asked.seed):
        world = problem_of(folder, request)
        others = others or world.assembled.judged["collateral"]  # later, what was removed is in no file either
        alone = request.name == "all at once"
        before = world.problem if model is None or alone else _then(world.problem, model, earlier, method, options)
        made: Unlearned = unlearned(before, method, options, asked.seed)
        model = made.problem.model
        outcome = made.outcome
        own = Removed(made.problem, torch.tensor(outcome.targets))
        figures: dict[str, Any] = {"row_passes": round(outcome.row_passes, 1)}
        figures |= _parts("removed now", [own], made.problem)
        figures |= _parts("removed earlier", [] if alone else earlier, made.problem)
        for name, split in (world.assembled.judged | {"collateral": others}).items():
            if name == "forget":
                continue
            found = seen(made.problem, split).figures()
            figures |= {f"{name} {what}": found[what] for what in ("documents", "answers", "known")}
        earlier.append(own)
        cells.add(**key, request=request.name, rows=len(request.forget), **figures)


def _then(first: Problem, model: Any, earlier: Sequence[Removed], method: str, options: Mapping[str, Any]) -> Problem:
    """The problem around the model that earlier requests left."""
    if not method_of(method, options).needs.earlier:
        return replace(first, model=model)
    removed = reduce(Split.joined, (one.problem.splits["forget"] for one in earlier))
    return replace(
        first, model=model, first=lambda: nullcontext(first.model), splits={**first.splits, "earlier": removed}
    )


def _parts(name: str, groups: Sequence[Removed], now: Problem) -> dict[str, float]:
    """Mean loss and target of some removed rows, and the share of their answers that are known."""
    every = [group.figures(now) for group in groups]
    if not every:
        return {}
    total = {what: sum(one[what] for one in every) for what in every[0]}
    means = {"loss": total["losses"] / total["rows"], "target": total["targets"] / total["rows"]}
    means |= {"known": total["known"] / total["answers"]}
    return {f"{name} {what}": round(value, 3) for what, value in means.items()}


COLUMNS = ("row_passes", "removed now loss", "removed now target", "removed earlier loss", "removed earlier target")
COLUMNS += ("removed earlier known", "retain known", "guard known", "collateral known", "collateral documents")
COLUMNS += ("collateral answers", "judging documents", "judging answers")


def table(cells: Cells) -> Iterator[str]:
    yield "| world | method | seed | request | " + " | ".join(COLUMNS) + " |"
    yield "| --- " * (4 + len(COLUMNS)) + "|"
    for line in cells.lines:
        values = [line.get(name) for name in COLUMNS]
        words = ["" if value is None else f"{value:.3g}" for value in values]
        place = [str(line[name]) for name in ("world", "method", "seed", "request")]
        yield "| " + " | ".join([*place, *words]) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worlds", nargs="*", type=Path)
    parser.add_argument("--method", default="margin_newton")
    parser.add_argument("--requests", type=int, default=10)
    parser.add_argument("--people", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    cells = Cells(asked.output)
    for folder in asked.worlds:
        run(folder, asked, cells)
    if asked.table:
        print("\n".join(table(cells)))


if __name__ == "__main__":
    main()
