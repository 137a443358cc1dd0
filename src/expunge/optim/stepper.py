"""Contract: what takes the steps of a descent, and the plain case, an optimiser of PyTorch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from expunge.data.batches import Batch
from expunge.data.passes import Passes
from expunge.optim.adamw import adamw
from expunge.problem import Problem, Split


class Stepper(Protocol):
    """An optimiser over one run of steps. `tokens` and `rows` (windows) count what it sent through the model beside
    the steps' own passes; `clip` is the norm that the gradient of a step is clipped to."""

    @property
    def optimiser(self) -> torch.optim.Optimizer: ...

    @property
    def clip(self) -> float: ...

    @property
    def tokens(self) -> int: ...

    @property
    def rows(self) -> int: ...

    def before(self, step: int, batches: Sequence[Batch]) -> None:
        """Ahead of 0-based `step`, whose batches these are."""
        ...

    def after(self, step: int) -> None:
        """Following 0-based `step`."""
        ...

    def state_dict(self) -> dict[str, object]:
        """What it needs to go on, but for the optimiser."""
        ...

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Puts back what `state_dict` returned, once the optimiser is as it was."""
        ...


Note = Callable[[str, Mapping[str, Any]], None]  # figures for the record, under a name of its notes


class Optimiser(Protocol):
    """What makes a `Stepper`, and says what its own passes cost."""

    def begin(self, problem: Problem, pool: Mapping[str, Split], seed: int, note: Note) -> Stepper:
        """A stepper over the movable parameters, as they are now; `pool`: the splits that it may draw from."""
        ...

    def cost(self, pool: Mapping[str, Split], draws: Mapping[str, int], seed: int, steps: int) -> Passes:
        """Of its own passes, beside those of steps that draw so many windows by split."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Plain:
    """Any optimiser of PyTorch, made by a function of the parameters; its learning rate is set by the loop."""

    make: Callable[[Sequence[Tensor]], torch.optim.Optimizer] = adamw
    clip: float = 1.0

    def begin(self, problem: Problem, pool: Mapping[str, Split], seed: int, note: Note) -> "PlainStepper":
        return PlainStepper(self.make(list(problem.movable.values())), self.clip)

    def cost(self, pool: Mapping[str, Split], draws: Mapping[str, int], seed: int, steps: int) -> Passes:
        return Passes()


@dataclass(slots=True)
class PlainStepper:
    """Has nothing to do around a step."""

    optimiser: torch.optim.Optimizer
    clip: float
    tokens: int = 0
    rows: int = 0

    def before(self, step: int, batches: Sequence[Batch]) -> None:
        return

    def after(self, step: int) -> None:
        return

    def state_dict(self) -> dict[str, object]:
        return {}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        return
