"""Contract: what an unlearning method is.

A method is a frozen dataclass in `methods/`, one file each, that inherits `Method`; its fields are its
hyper-parameters, with a docstring under each and bounds at the field (`config.bounds`). `needs` says what it must be
given, `init` computes what depends only on model and data (targets, cached reference distributions), and `phases` says
what is done with the weights, in order:

- `Descend`: a loss is minimised. It is a sum over the splits that a step draws from, evaluated on one batch of one
  split at a time; `combine` may make something else than a sum of the splits' gradients.
- `Propose`: a direction, and a rule that finds a step along it or refuses it; weights come back bit for bit.
- `Transform`: a change of the weights outside any optimiser (merging, pruning, task vectors).
- `Repeat`: phases in cycles, until a proposal is refused or a condition holds.

Each kind has a runner in `loop/` that runs it, says what it costs, keeps its state. Constructors compute nothing.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from expunge.data.batches import Batch
from expunge.data.passes import Passes
from expunge.data.rows import Row
from expunge.gradients.summed import Terms as Terms
from expunge.model.choice import LinearLayers
from expunge.optim.search import Measured
from expunge.optim.step_size import StepRule
from expunge.optim.stepper import Optimiser, Plain
from expunge.problem import Made, Problem, Split

ACCEPTANCE = "acceptance"  # the split that proposed steps are measured on
CHANGE = "change"  # in `State.carried`: the change of linear layers as products, where the problem asks for low rank
Kept = Literal["distributions", "states"]
Gradients = Mapping[str, Tensor]  # by the names of `Problem.movable`


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """Texts to sample from the original, and the longest of them in tokens."""

    texts: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TwoFactors:
    """A curvature of two factors a layer, which `init` fits and which may be given instead (`Problem.fitted`).

    The entry of the curvatures catalogue, its options and its damping, relative to each layer's mean unless it is
    absolute. `rows`: what it is fitted on, of a problem divided as the method asks; that may lack forget rows.
    """

    curvature: str
    curvature_options: Any
    damping: float
    absolute_damping: float | None
    rows: Callable[[Problem], Split]


@dataclass(frozen=True, slots=True, kw_only=True)
class Needs:
    """What a method must be given, and what it keeps; known from its options alone, before any model is loaded.

    `retain`, `targets`: refused without rows to keep, or without anything to take these from. `fewest_retain`: of
    retain rows (the guard not counted). `parts`: weights of the parts that the retain rows are dealt into by hash, such
    as {"retain": 2, "curvature": 1, "acceptance": 1}; methods that propose need "acceptance". `kept`: what it keeps of
    the original, by split. `linear`: of the subspace only weights of such linear layers move; a given adapter is then
    merged, unless asked otherwise; where the problem asks for `low_rank`, the change is left as products. `replay`:
    text that it samples, the split "replay". `layers`: of so many decoder layers those that may move (0: next to the
    embeddings); none: whatever the subspace holds. `factors`: the curvature that may be given. `earlier`: of requests
    in sequence it takes the removed rows and the first model (`Problem.first`). `of_rows`: what a forget row must have
    and has not, in words, or nothing. `made`: further splits, of the problem's rows, tokenizer and rendering alone.
    `tokens`: how many tokens of rows it keeps as they go through each linear layer (`LinearLayers.by_token`).
    """

    retain: bool = False
    targets: bool = False
    fewest_retain: int = 0
    parts: Mapping[str, int] = field(default_factory=dict)
    kept: Mapping[str, Kept] = field(default_factory=dict)
    linear: LinearLayers | None = None
    replay: Replay | None = None
    layers: Callable[[int], Sequence[int]] | None = None
    factors: TwoFactors | None = None
    earlier: bool = False
    of_rows: Callable[[Row], str] = lambda row: ""
    made: Made = lambda problem: {}
    tokens: Callable[[Problem], int] = lambda problem: 0


@dataclass(slots=True)
class State:
    """What `init` computed: extra splits to draw from, targets per forget row, caches, and notes for the record.

    `carried`: what phases leave to later ones (tensors, plain values, lists and mappings of them), which checkpoints
    keep; the rest depends on the original alone. `pressure`: on the pull to the targets, which are a constraint; the
    loop raises it while the rows do not arrive.
    """

    splits: dict[str, Split] = field(default_factory=dict)
    targets: Any = None
    caches: dict[str, Any] = field(default_factory=dict)
    carried: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    pressure: float = 1.0


@dataclass(frozen=True, slots=True)
class Probe:
    """The learning rate is looked for: the smallest that should arrive (see `loop.probe`). Needs targets."""


@dataclass(frozen=True, slots=True)
class Trial:
    """One step before it is taken, for a rule that sets its learning rate.

    `step` is 0-based, of `steps`; `splits`: those it drew from. `loss_at(rate, split)`: the mean loss of the step's own
    batches of a split, in the units of `Descend.loss`, with the weights moved by -rate times the combined and clipped
    gradient, and afterwards back.
    """

    step: int
    steps: int
    splits: frozenset[str]
    state: State
    loss_at: Callable[[float, str], float]


Rate = float | Probe | Callable[[Trial], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Descend:
    """A loss that is minimised.

    `loss` is evaluated on one batch of one split at a time (`Batch.split`). `draws`: windows of each split in a step
    (splits that do not exist are skipped). One of `steps` and `passes` (over the forget windows) says how long. `rate`:
    a learning rate, which warms up and decays linearly; `Probe`; or a rule that looks at losses and sets it at each
    step. `aims`: the forget rows have targets, so that arriving can be seen. `combine` makes one gradient of those of
    the splits; none: their sum. `trials`: how often a step's rule measures a split, on average, for plans.
    `beside`: by split another one, whose windows at the same places the loss runs together with those that were drawn.
    """

    loss: Callable[[Problem, State, Batch], Terms]
    draws: Mapping[str, int]
    rate: Rate
    steps: int | None = None
    passes: float | None = None
    aims: bool = False
    combine: Callable[[Mapping[str, Gradients]], Gradients] | None = None
    optimiser: Optimiser = field(default_factory=Plain)
    trials: Mapping[str, float] = field(default_factory=dict)
    beside: Mapping[str, str] = field(default_factory=dict)
    name: str = "descent"

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.passes is None):
            raise ValueError(f"{self.name}: give either steps or passes over the forget rows")
        if self.aims and callable(self.rate):
            raise ValueError(f"{self.name}: a descent to targets steers its rate itself; give a number or a probe")
        if isinstance(self.rate, Probe) and not self.aims:
            raise ValueError(f"{self.name}: a probe looks for the rate at which forget rows reach their targets")


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A direction in weights; the update is always *plus* step times direction.

    `direction` has the names of `Problem.movable`; parameters that are missing do not move. The slopes are the
    derivatives of the mean losses along it: of forget rows (mean over rows of each row's loss per token) and of retain
    rows (mean over tokens). `retain_bend` is direction' C direction, C the curvature of the retain loss per token. A
    step s is expected to change the forget loss by s * slope, the retain loss by s * slope + s^2 * bend / 2.
    `forget_aim`: the mean loss of forget rows that a step of 1 is planned to reach. None: not known. `notes`: plain
    numbers, texts, lists and mappings for the record. `passes`: over each split's windows, where the phase has others.
    """

    direction: Mapping[str, Tensor]
    forget_slope: float | None = None
    forget_aim: float | None = None
    retain_slope: float | None = None
    retain_bend: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    passes: Mapping[str, float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Propose:
    """Asks for a proposal at the current weights and takes the step that the rule finds, or none.

    `passes`: over each split's windows, how many forward and backward passes one proposal takes. `optional`: a refusal
    does not end the `Repeat` around it. `unless(measured)`: why there is nothing to propose here, or None; `until`: the
    same, and it ends the `Repeat`. `most_back`: a step that takes a forget row back by more than that share of its way
    from the original to its target is halved, twice at most, then refused. For plans, from the shapes of what may move:
    `bytes` that it keeps beside the direction, FLOPs of its own matrix `products`.
    """

    propose: Callable[[Problem, State], Proposal]
    step: StepRule
    passes: Mapping[str, float]
    optional: bool = False
    unless: Callable[[Measured], str | None] = lambda measured: None
    until: Callable[[Measured], str | None] = lambda measured: None
    most_back: float | None = None
    bytes: Callable[[Mapping[str, torch.Size]], int] = lambda shapes: 0
    products: Callable[[Mapping[str, torch.Size]], float] = lambda shapes: 0.0
    name: str = "proposal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """A change of the weights outside any optimiser, made at once.

    `apply(problem, state)` changes the movable parameters in place. Arithmetic on weights goes through
    `model.effective`, so that of a LoRA B A is added up and never B and A. Trainings whose results it takes are
    `Descend` phases before it, which leave theirs in `State.carried` by transforms of their own; so each has its cost,
    its checkpoints and its place in a budget.
    """

    apply: Callable[[Problem, State], None]
    name: str = "transform"


@dataclass(frozen=True, slots=True)
class Repeat:
    """Phases in cycles; a proposal that is refused ends it, and so does `until`, asked after each cycle.

    One within another is run as often as it says: only the outermost can end early. `likely`: plans count it; else they
    say what it can take beside.
    """

    phases: tuple["Phase", ...]
    times: int
    until: Callable[[State], bool] | None = None
    likely: bool = True

    def __post_init__(self) -> None:
        if any(isinstance(phase, Repeat) and phase.until for phase in self.phases):
            raise ValueError("until is asked of the outermost Repeat only; give it to that one")


Step = Descend | Propose | Transform
Phase = Step | Repeat


def flattened(phases: Sequence[Phase]) -> list[Step]:
    """The phases one by one, those of a `Repeat` as often as it asks for."""
    flat: list[Step] = []
    for phase in phases:
        flat += phase.times * flattened(phase.phases) if isinstance(phase, Repeat) else [phase]
    return flat


class Method(Protocol):
    """A method of the catalogue; entries inherit it, and with it what they do not say themselves."""

    @property
    def needs(self) -> Needs:
        """What it must be given. Asked of the options alone."""
        return Needs()

    def init(self, problem: Problem) -> State:
        """Computes what depends only on model and data, on the original model."""
        return State()

    def cost(self, problem: Problem) -> Passes:
        """What `init` takes beside what `needs` says of it, of a problem without a model too."""
        return Passes()

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        """What to do, in order. Plans ask too, of a problem without a model and an empty state."""
        ...
