"""What benchmarks on worlds share: a world opened once, a method run in memory, rows measured, cells kept as lines.

A world is a folder with the models original, base and retrained, and with forget, retain, holdout and train rows, as
`expunge.demo.models.make_models` writes it.
"""

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from expunge.config.commands import Unlearn
from expunge.intake.assembly import Assembled, assemble, load_other
from expunge.intake.sets import check
from expunge.loop import trial
from expunge.loop.phases import apply
from expunge.loop.watch import Outcome
from expunge.model.losses import nll, read_targets, target_ids
from expunge.model.select import select
from expunge.problem import Problem, Split

ROWS = ("forget", "retain", "holdout", "train")


@dataclass(frozen=True, slots=True)
class World:
    """A world's folder, its rows and original as a problem with what the base makes of the forget rows."""

    name: str
    config: Unlearn
    assembled: Assembled
    problem: Problem

    def model(self, name: str) -> Problem:
        """The problem around another of its models."""
        folder = Path(self.config.model or "").parent / name
        return load_other(self.config, str(folder), self.assembled, torch.float32)


def opened(folder: Path, rows: Mapping[str, Path] | None = None, benchmark: str = "rows") -> World:
    """A folder of models, with its rows unless others are given by name."""
    given = rows or {name: folder / f"{name}.jsonl" for name in ROWS}
    files = {name: str(file) for name, file in given.items()}
    config = Unlearn(model=str(folder / "original"), base=str(folder / "base"), benchmark=benchmark, **files)
    assembled = assemble(config, check(config))
    base = trial.base_of(config, assembled)
    assert base is not None
    problem = replace(assembled.problem, base=base.losses, base_margins=base.margins)
    return World(folder.name, config, assembled, problem)


def movable(problem: Problem, seed: int = 0, method: Any = None) -> Problem:
    """A copy of the problem's model whose weights move: all of them, or those that a method may move."""
    needs = method.needs if method else None
    which = needs.linear.which.replace("auto", "all") if needs and needs.linear else ""  # such models are small
    given = (needs.layers, which) if needs else ()
    subspace = select(deepcopy(problem.model), "full", problem.runtime.device, *given)
    return replace(problem, model=subspace.model, movable=subspace.movable, seed=seed)


@dataclass(frozen=True, slots=True)
class Unlearned:
    """The unlearned model's problem, and how the run went."""

    problem: Problem
    outcome: Outcome


def unlearned(problem: Problem, method: str, options: Mapping[str, Any], seed: int) -> Unlearned:
    """A method run on a copy of the problem's model; nothing is written."""
    made = trial.method_of(method, options)
    torch.manual_seed(seed)
    moving = movable(problem, seed, made)
    return Unlearned(moving, apply(made, moving, lambda entry: None))


@dataclass(frozen=True, slots=True)
class Seen:
    """By row: mean loss in nats per token, and the share of tokens that are the likeliest; which rows are answers."""

    losses: Tensor
    right: Tensor
    answers: Tensor

    def figures(self, rows: Tensor | None = None) -> dict[str, float | None]:
        """Mean losses of documents and answers, the share of answers that are known, and that of documents of which
        at least half of the tokens are recited; of some rows (a mask), or all."""
        own = torch.ones_like(self.answers) if rows is None else rows
        answers, documents = self.answers & own, ~self.answers & own
        return {
            "documents": _mean(self.losses[documents]),
            "answers": _mean(self.losses[answers]),
            "known": _mean((self.right[answers] == 1).double()),
            "recited": _mean((self.right[documents] >= 0.5).double()),
        }


@torch.no_grad()
def seen(problem: Problem, split: Split) -> Seen:
    """The rows under the problem's model, teacher-forced."""
    sums = torch.zeros(3, len(split.rows), dtype=torch.float64)

    def read(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return nll(logits, ids), (logits.argmax(dim=1) == ids).to(logits.dtype)

    def look(batch: Any) -> None:
        losses, right = read_targets(problem.model, batch, read, target_ids(batch))
        owners = batch.rows.repeat_interleave(batch.counted.sum(dim=1)).cpu()
        for place, values in enumerate((losses, right, torch.ones_like(losses))):
            sums[place].index_add_(0, owners, values.double().cpu())

    problem.over(split, look)
    answers = torch.tensor([row.kind == "answer" for row in split.rows])
    return Seen(sums[0] / sums[2], sums[1] / sums[2], answers)


class Cells:
    """Results as JSON lines, one a cell, named by its keys; a file that exists is gone on with."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self.lines: list[dict[str, Any]] = [json.loads(line) for line in lines]

    def has(self, **key: Any) -> bool:
        return any(all(line.get(name) == value for name, value in key.items()) for line in self.lines)

    def add(self, **cell: Any) -> None:
        self.lines.append(cell)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(cell) + "\n")
        print(json.dumps(cell), flush=True)


def _mean(values: Tensor) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None
