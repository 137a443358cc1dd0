"""Contract: what an unlearning method is.

A method is a frozen dataclass in `methods/`, one file each; its fields are its hyper-parameters. `init` computes what
depends only on model and data (targets, cached reference distributions); `phases` says what is done with the weights,
in order. A *loss phase* minimises a loss, which is the sum over the splits that it draws; a *proposal phase* asks for
a direction and takes a step along it, or refuses; `Repeat` runs phases in cycles. The third kind that the design
names (transform) gets its contract with its first method; docs/decisions.md shows on paper that it fits.

What a method may declare beside its fields, as class variables:
`needs_retain`, `needs_targets`: it is refused without rows to keep, or without anything to take targets from;
`keeps`: splits for which it keeps the original's distributions, for plans;
`retain_parts`: weights of the parts that the retain rows are dealt into, such as
`{"retain": 2, "curvature": 1, "acceptance": 1}`; methods that propose need "acceptance";
`fewest_retain`: the fewest retain rows (the guard not counted) that it runs with.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import Tensor

from expunge.data.batches import Batch
from expunge.optim.sophia import SophiaSettings
from expunge.optim.step_size import StepRule
from expunge.problem import Problem, Split


@dataclass(frozen=True, slots=True)
class Terms:
    """A loss and its named parts (scalars, in nats unless the name says otherwise)."""

    parts: Mapping[str, Tensor]
    total: Tensor


@dataclass(slots=True)
class State:
    """What `init` computed: extra splits to draw from, targets per forget row, caches, and notes for the record.

    `carried`: what phases leave to later ones, which checkpoints keep; the rest depends on the original alone.
    `pressure` is the multiplier on the pull to the targets, which are a constraint: the loop raises it while the rows
    are under way and do not arrive.
    """

    splits: dict[str, Split] = field(default_factory=dict)
    targets: Any = None
    caches: dict[str, Any] = field(default_factory=dict)
    carried: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    pressure: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LossPhase:
    """How the loop minimises a loss.

    `loss` is evaluated on one batch of one split at a time (`Batch.split`). `draws`: windows of each split in a step
    (splits that do not exist are skipped). `learning_rate` None: found by the probe. `aims` says whether the forget
    rows have targets, so that arriving can be seen. `optimiser` None: AdamW.
    """

    loss: Callable[[Problem, State, Batch], Terms]
    draws: Mapping[str, int]
    steps: int
    learning_rate: float | None
    aims: bool = False
    optimiser: SophiaSettings | None = None
    name: str = "descent"

    @property
    def probes(self) -> bool:
        """Whether its learning rate is looked for."""
        return self.aims and self.learning_rate is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A direction in weights; the update is always *plus* step times direction.

    `direction` has the names of `Problem.movable`; parameters that are missing do not move. The slopes are the
    derivatives of the mean losses along it: of forget rows (mean over rows of each row's loss per token) and of retain
    rows (mean over tokens). `retain_bend` is direction' C direction, C the curvature of the retain loss per token. A
    step s is expected to change the forget loss by s * slope, the retain loss by s * slope + s^2 * bend / 2. None:
    not known. `notes` are figures for the record: plain numbers, texts, lists and mappings.
    """

    direction: Mapping[str, Tensor]
    forget_slope: float | None = None
    retain_slope: float | None = None
    retain_bend: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalPhase:
    """Asks for a proposal at the current weights and takes the step that the rule finds, or none.

    `passes`: over each split's windows, how many forward and backward passes one proposal takes, for plans and for
    budgets of tokens.
    """

    propose: Callable[[Problem, State], Proposal]
    step: StepRule
    passes: Mapping[str, float]
    name: str = "proposal"


@dataclass(frozen=True, slots=True)
class Repeat:
    """Phases in cycles; a proposal that is refused ends it."""

    phases: tuple["Phase", ...]
    times: int


Phase = LossPhase | ProposalPhase | Repeat


def flattened(phases: Sequence[Phase]) -> list[LossPhase | ProposalPhase]:
    """The phases one by one, those of a `Repeat` as often as it asks for."""
    flat: list[LossPhase | ProposalPhase] = []
    for phase in phases:
        flat += phase.times * flattened(phase.phases) if isinstance(phase, Repeat) else [phase]
    return flat


class Method(Protocol):
    """A method of the catalogue."""

    def init(self, problem: Problem) -> State:
        """Computes what depends only on model and data, on the original model."""
        ...

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        """What to do, in order. Plans ask too, of a problem without a model and an empty state."""
        ...
