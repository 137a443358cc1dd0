"""What is seen of a run while it goes on, and what is told of it afterwards."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge.data.passes import Passes, measuring
from expunge.data.splits import spread
from expunge.method import State
from expunge.optim.stopping import Check
from expunge.problem import Problem, Split
from expunge.reference.cache import row_losses

MOST_WATCHED = {"forget": 128, "retain": 48, "guard": 48, "acceptance": 48}


@dataclass(slots=True)
class Outcome:
    """How a method's run went, for the record.

    `steps`: of the optimiser, and proposals that were taken. `tokens` went through the model in optimiser steps and for
    proposals, padding excluded; a pass that only measures a proposed step counts a third, since its backward is not
    run. `row_passes` counts the same in rows, and what `init` computes. Checks are not counted in either.
    `learning_rate` and `probe` are those of the last loss
    phase; `proposals` holds the figures of each (see `propose`); `change` is what a method left as `method.CHANGE`.
    """

    stopped: str = ""
    learning_rate: float = 0.0
    steps: int = 0
    tokens: int = 0
    row_passes: float = 0.0
    probe: dict[str, Any] | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    proposals: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    targets: list[float] | None = None
    change: dict[str, Any] = field(default_factory=dict)

    def state_dict(self) -> dict[str, Any]:
        """Plain values, for checkpoints."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts back what `state_dict` returned."""
        for name, value in state.items():
            setattr(self, name, value)


@dataclass(frozen=True, slots=True)
class Watch:
    """Measures the current model on forget, retain, guard and acceptance rows (a spread of each), against the original.

    `start`: the original's losses by split; `targets` of the watched forget rows, where there are any.
    """

    problem: Problem
    splits: Mapping[str, Split]
    start: Mapping[str, NDArray[np.float64]]
    targets: NDArray[np.float64] | None

    @classmethod
    def at_original(cls, problem: Problem, state: State) -> "Watch":
        """Before anything moves."""
        splits = _spread(problem.splits)
        start = {name: _losses(problem, split) for name, split in splits.items()}
        kept = spread(len(problem.splits["forget"].rows), MOST_WATCHED["forget"])
        targets = None if state.targets is None else state.targets.cpu().double().numpy()[kept]
        return cls(problem, splits, start, targets)

    def check(self, step: int) -> Check:
        """Losses now; one forward pass over the watched rows."""
        now = {name: _losses(self.problem, split) for name, split in self.splits.items()}
        means = {name: float(values.mean()) for name, values in now.items()}
        starts = {name: float(values.mean()) for name, values in self.start.items()}
        return Check(
            step=step,
            forget=now["forget"],
            start=self.start["forget"],
            targets=self.targets,
            retain=means.get("retain"),
            retain_start=starts.get("retain"),
            guard=means.get("guard"),
            guard_start=starts.get("guard"),
            acceptance=means.get("acceptance"),
            acceptance_start=starts.get("acceptance"),
        )


def watched(splits: Mapping[str, Split], looks: float) -> Passes:
    """The cost of so many checks."""
    return Passes(measured=[part for split in _spread(splits).values() for part in measuring(split.windows, looks)])


def _spread(splits: Mapping[str, Split]) -> dict[str, Split]:
    return {
        name: splits[name].of(spread(len(splits[name].rows), most), name)
        for name, most in MOST_WATCHED.items()
        if name in splits
    }


def _losses(problem: Problem, split: Split) -> NDArray[np.float64]:
    return row_losses(problem, problem.model, split).numpy()
