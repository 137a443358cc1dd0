"""Attempts of a descent whose forget rows have targets: which to keep, and at which rate the next one is made.

The steps of one full attempt are the budget of all: one that used them up is the last.
"""

from dataclasses import dataclass, field, fields
from typing import Any

from torch import Tensor

from expunge.optim.stopping import Check

MOST = 3
LOWER, HIGHER = 0.5, 2.0  # factors on the rate after an attempt that hurt, and after one that did not arrive


@dataclass(slots=True)
class Attempts:
    """`start`: the weights that each attempt begins at; `rate` that of the attempt to come or under way; `best` of
    those made: its score, reason, rate, steps and weights."""

    start: dict[str, Tensor]
    rate: float
    repairs: bool
    made: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, object]:
        """What makes it again."""
        return {one.name: getattr(self, one.name) for one in fields(self)}

    def add(self, check: Check, steps: int, broken: str, weights: dict[str, Tensor]) -> dict[str, object]:
        """Takes an attempt into account, with its last check and the weights it ended at; returns its figures."""
        reason = broken or check.reason()
        figures = {"learning_rate": self.rate, "steps": steps, "outcome": reason} | check.figures()
        self.made.append(figures)
        score = check.score()
        if self.best is None or score < self.best["score"]:
            self.best = {"score": score, "reason": reason, "rate": self.rate, "steps": steps, "weights": weights}
        return figures

    def over(self, check: Check, broken: str, most_steps: int) -> bool:
        """Whether the attempt just added is the last; if not, the next one's rate is set."""
        arrived = check.arrived() and not check.hurts() and not broken
        used = sum(attempt["steps"] for attempt in self.made)
        if arrived or used >= most_steps or len(self.made) == MOST:
            return True
        self.rate *= LOWER if check.hurts() or broken else HIGHER
        return False
