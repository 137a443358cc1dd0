"""Runs a change of the weights outside any optimiser."""

from collections.abc import Mapping

import torch

from expunge.data.passes import Passes
from expunge.loop.unlearning import End, Ground, Unlearning
from expunge.loop.watch import watched
from expunge.method import Transform


def work(phase: Transform, ground: Ground) -> Passes:
    """No pass; one copy of the weights while they are replaced."""
    return Passes(updates=1, copies=1)


def cost(phase: Transform, ground: Ground) -> Passes:
    """That, and the check after it."""
    return work(phase, ground) + watched(ground.pool, 1)


class TransformRunner:
    """Applies it at once: there is nothing between its beginning and its end to go on from."""

    def __init__(self, unlearning: Unlearning, phase: Transform) -> None:
        self.unlearning, self.phase = unlearning, phase

    def state_dict(self) -> dict[str, object]:
        return {}

    def run(self, saved: Mapping[str, object] | None = None) -> End:
        """Changes the weights, or takes the change back where a weight of it is not finite."""
        problem, outcome = self.unlearning.problem, self.unlearning.outcome
        before = problem.snapshot()
        with torch.no_grad():
            self.phase.apply(problem, self.unlearning.state)
        if broken := [name for name, tensor in problem.movable.items() if not torch.isfinite(tensor).all()]:
            problem.restore(before)
            return End(f"taken back: {broken[0]} was not finite after it")
        figures = {"phase": self.phase.name} | self.unlearning.watch.check(outcome.steps).figures()
        outcome.history.append(figures)
        self.unlearning.log(figures)
        return End("the weights were changed")
