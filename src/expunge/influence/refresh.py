"""Sophia inside the loop: when its curvature is estimated and on which rows, and what share of its step is unclipped.

An estimate is taken before steps 1, k + 1, 2 k + 1, ... at the weights that the step starts from, as in Algorithm 3 of
2305.14342. The share is measured midway, after step k // 2 + 1 of every k, so that it says how gamma fits batches that
did not set it.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict, cast

import torch

from expunge.data.batches import Batch, Stream
from expunge.data.passes import Passes, drawing, shape_of
from expunge.errors import NumericalError
from expunge.gradients.estimates import Estimate, estimate
from expunge.optim.sophia import PAPER, Rule, Sophia, SophiaSettings
from expunge.optim.stepper import Note
from expunge.problem import Problem, Split

OWN_SEED = 7919  # added to the phase's seed, so that refreshes draw neither the rows nor the noise of anything else
MakeEstimate = Callable[[Problem, Sequence[Batch], torch.Generator], Estimate]


@dataclass(frozen=True, slots=True, kw_only=True)
class WithSophia:
    """Sophia for a `Descend` phase.

    `estimate` makes the curvature's estimates, of rows of the "curvature" split or else of retain rows (without either,
    of the step's own batches); none: the rule takes its curvature from the step's gradients. A control of an experiment
    is another function here.
    """

    settings: SophiaSettings = field(default_factory=SophiaSettings)
    rule: Rule = PAPER
    estimate: MakeEstimate | None = estimate

    def begin(self, problem: Problem, pool: Mapping[str, Split], seed: int, note: Note) -> "SophiaStepper":
        return SophiaStepper(problem, self, rows_of(pool), seed, note)

    def cost(self, pool: Mapping[str, Split], draws: Mapping[str, int], seed: int, steps: int) -> Passes:
        """Of the estimates; without rows of their own, each takes one step's batches once more."""
        split, times = rows_of(pool), math.ceil(steps / self.settings.refresh_every)
        if self.estimate is None:
            return Passes()
        if split is None:
            return Passes(trained=drawing({name: part.windows for name, part in pool.items()}, draws, seed, times))
        batches = Stream(split.name, split.windows, seed).draw(self.settings.refresh_rows, self.settings.refresh_most)
        return Passes(trained=[(times, shape_of(batch)) for batch in batches])


class _State(TypedDict):
    tokens: int
    rows: int
    strayed: bool
    random: torch.Tensor


class SophiaStepper:
    """Sophia and its estimates over one run of steps, called by the loop before and after each.

    `note` receives {"step", "unclipped", "gamma"} at each check; `tokens` and `rows` count what refreshes sent through
    the model.
    """

    def __init__(self, problem: Problem, made: WithSophia, split: Split | None, seed: int, note: Note) -> None:
        self.problem, self.settings, self.note, self.tokens, self.rows = problem, made.settings, note, 0, 0
        self.estimate, self.clip = made.estimate, made.settings.clip
        self.optimiser: Sophia = Sophia(problem.movable.values(), made.settings, made.rule, seed=seed)
        self._stream = None if split is None else Stream(split.name, split.windows, seed + OWN_SEED)
        self._generator = torch.Generator(device=problem.runtime.device).manual_seed(seed + OWN_SEED)
        self._strayed = False

    def before(self, step: int, batches: Sequence[Batch]) -> None:
        """Refreshes the curvature where that is due."""
        if self.estimate is None or step % self.settings.refresh_every:
            return
        if self._stream is not None:
            batches = self._stream.draw(self.settings.refresh_rows, self.settings.refresh_most)
        result = self.estimate(self.problem, batches, self._generator)
        if not all(bool(part.isfinite().all()) for part in result.diagonal):
            raise NumericalError(f"step {step + 1}: the estimate of the curvature is not finite.")
        self.tokens += result.tokens
        self.rows += sum(len(batch.windows) for batch in batches)
        self.optimiser.refresh(result.diagonal, regauge=self._strayed)

    def after(self, step: int) -> None:
        """Measures the unclipped share midway between refreshes."""
        if step % self.settings.refresh_every != self.settings.refresh_every // 2:
            return
        share, (low, high) = self.optimiser.unclipped_share(), self.settings.unclipped_range
        self._strayed = not low <= share <= high
        self.note("sophia", {"step": step + 1, "unclipped": share, "gamma": self.optimiser.gamma})

    def state_dict(self) -> dict[str, object]:
        return {
            "tokens": self.tokens,
            "rows": self.rows,
            "strayed": self._strayed,
            "random": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        saved = cast(_State, state)
        self.tokens, self.rows, self._strayed = saved["tokens"], saved["rows"], saved["strayed"]
        self._generator.set_state(saved["random"])
        if self._stream is not None:
            self._stream.skip(self.settings.refresh_rows, self.optimiser.param_groups[0]["refreshes"])


def rows_of(pool: Mapping[str, Split]) -> Split | None:
    """The split whose rows the curvature is taken on: those whose loss should not move."""
    return pool.get("curvature") or pool.get("retain")
