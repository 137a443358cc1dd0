"""Ends a descent whose loss is no longer finite, at the weights of its last good check."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from expunge.errors import NumericalError
from expunge.optim.stopping import Check
from expunge.problem import Problem


@dataclass(frozen=True, slots=True)
class Guarded:
    """The step reached and, where the loss was not finite, what happened."""

    step: int
    broken: str = ""


@dataclass(slots=True)
class Guard:
    """The weights of the last good check and its step; before the first, those at which it was made."""

    problem: Problem
    weights: dict[str, Tensor]
    step: int

    @classmethod
    def here(cls, problem: Problem, step: int) -> "Guard":
        """At the current weights."""
        return cls(problem, problem.snapshot(), step)

    def see(self, check: Check) -> bool:
        """Remembers the current weights where all losses at them are finite; returns whether they are."""
        self.step = check.step
        if not check.finite:
            return False
        self.weights = self.problem.snapshot()
        return True

    def over(self, work: Callable[[], int]) -> Guarded:
        """What the steps of `work` reached; the good weights where their loss was not finite."""
        try:
            return Guarded(work())
        except NumericalError as error:
            self.problem.restore(self.weights)
            return Guarded(self.step, f"{error} The weights of the last good check are kept.")
