"""Contract: what an unlearning method is.

A method is a frozen dataclass in `methods/`, one file each; its fields are its hyper-parameters. `init` computes what
depends only on model and data (targets, cached reference distributions); `phase` says how the loop shall minimise;
`loss` is the objective on one batch of one split, and the objective is the sum over the splits that `phase` draws.
The other two kinds of phase that the design names (proposal, transform) get their contract with their first method;
docs/decisions.md shows on paper that they fit.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from expunge.data.batches import Batch
from expunge.problem import Problem, Split


@dataclass(frozen=True, slots=True)
class Terms:
    """A loss and its named parts (scalars, in nats unless the name says otherwise)."""

    parts: Mapping[str, Tensor]
    total: Tensor


@dataclass(slots=True)
class State:
    """What `init` computed: extra splits to draw from, targets per forget row, caches, and notes for the record.

    `pressure` is the multiplier on the pull to the targets, which are a constraint: the loop raises it while the rows
    are under way and do not arrive.
    """

    splits: dict[str, Split] = field(default_factory=dict)
    targets: Any = None
    caches: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    pressure: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LossPhase:
    """How the loop minimises a method's loss.

    `draws`: windows of each split in a step (splits that do not exist are skipped). `learning_rate` None: found by
    the probe. `aims` says whether the forget rows have targets, so that arriving can be seen.
    """

    draws: Mapping[str, int]
    steps: int
    learning_rate: float | None
    aims: bool = False


class Method(Protocol):
    """A method of the catalogue."""

    def init(self, problem: Problem) -> State:
        """Computes what depends only on model and data, on the original model."""
        ...

    def phase(self, problem: Problem, state: State) -> LossPhase:
        """How to minimise `loss`."""
        ...

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        """The objective on one batch; `batch.split` says of which split it is."""
        ...
