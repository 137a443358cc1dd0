"""What the runners of one unlearning share, and what a runner is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from expunge.data.passes import Passes
from expunge.loop.acceptance import Acceptance
from expunge.loop.watch import Outcome, Watch
from expunge.method import State
from expunge.problem import Problem, Split
from expunge.runs.growing import Log

Keep = Callable[[Callable[[], dict[str, Any]]], None]


@dataclass(slots=True)
class Unlearning:
    """One run of a method: its problem and state, and what is seen and told of it.

    `acceptance` measures proposed steps, where there are any; `original` the weights before anything moved, where
    proposals move them and a probe is to begin there. `budget`: tokens in place of a method's own numbers of steps;
    `descents` counts the descents so far, whose draws differ. `keep` is offered the state of a runner within its work.
    """

    problem: Problem
    state: State
    watch: Watch
    outcome: Outcome
    log: Log
    keep: Keep
    acceptance: Acceptance | None = None
    original: Mapping[str, Tensor] | None = None
    budget: int | None = None
    descents: int = 0

    @property
    def pool(self) -> dict[str, Split]:
        """The splits that steps draw from."""
        return {**self.problem.splits, **self.state.splits}


@dataclass(frozen=True, slots=True)
class End:
    """Why a phase ended, and whether it was a proposal that was refused."""

    reason: str
    refused: bool = False


class Runner(Protocol):
    """Runs one phase. Made for it from (unlearning, phase), or (unlearning, phase, steps) for a descent in a budget."""

    def run(self, saved: Mapping[str, Any] | None = None) -> End:
        """Runs the phase, or what is left of it after the state that an earlier process saved."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """What `run` needs to go on, but for the weights and `State.carried`; plain values and tensors."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What the cost of a phase hangs on: splits to draw from, the seed, and the shapes of what may move by name."""

    pool: Mapping[str, Split]
    shapes: Mapping[str, Any]
    seed: int = 0

    @classmethod
    def of(cls, problem: Problem, state: State) -> "Ground":
        shapes = {name: tensor.shape for name, tensor in problem.movable.items()}
        return cls(pool={**problem.splits, **state.splits}, shapes=shapes, seed=problem.seed)


Cost = Callable[[Any, Ground], Passes]
