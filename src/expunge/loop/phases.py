"""Applies a method to a problem, phase by phase, and goes on after an interruption.

Loss phases are run by `descent`, proposals are taken by `propose`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
from torch import Tensor

from expunge.errors import InputError
from expunge.influence.refresh import refresh_tokens
from expunge.loop.descent import Best, Descending
from expunge.loop.proposals import Proposals, expected_tokens
from expunge.loop.watch import Log, Outcome, Watch
from expunge.method import LossPhase, Method, ProposalPhase, Repeat, State, flattened
from expunge.problem import Problem, Split, divided
from expunge.runs.checkpoint import Checkpoints

NAME = "unlearning"
KEPT = (Outcome, Best)  # dataclasses in the checkpoints of a run; a method's own stand in `State.carried`


def apply(
    method: Method,
    problem: Problem,
    log: Log,
    tokens: int | None = None,
    checkpoints: Checkpoints | None = None,
) -> Outcome:
    """Unlearns: the problem's model ends unlearned, in evaluation mode.

    A loss that is not finite ends an attempt at the weights of the last good check, and the outcome says so. A proposal
    that is refused ends the `Repeat` around it, and the next phase begins. `tokens` is a budget in place of the
    method's own number of steps, for fair comparisons: proposals and the probe's steps are part of it, and there is
    one attempt. With `checkpoints` (of `KEPT` types), an interrupted run goes on after its last phase, proposal
    or check.
    """
    problem = divided(problem, getattr(method, "retain_parts", {}))
    state = method.init(problem)
    due = [
        _Due(phase, place if isinstance(given, Repeat) else None)
        for place, given in enumerate(method.phases(problem, state))
        for phase in flattened((given,))
    ]
    return _Application(problem, state, due, log, tokens, checkpoints).whole()


@dataclass(frozen=True, slots=True)
class _Due:
    """A phase that is to come, and the place of the outermost `Repeat` that it belongs to."""

    phase: LossPhase | ProposalPhase
    cycle: int | None


@dataclass(slots=True)
class _Application:
    """The phases of one run. Made before anything moves; what was kept of an earlier process is taken up then.

    Everything that depends on the original alone (targets, caches, what rows measure there) is computed again, so only
    what phases change is kept: weights, `State.carried`, the outcome and where in the phases the run is.
    """

    problem: Problem
    state: State
    phases: list[_Due]
    log: Log
    tokens: int | None
    checkpoints: Checkpoints | None
    outcome: Outcome = field(init=False)
    watch: Watch = field(init=False)
    proposals: Proposals | None = field(init=False)
    original: dict[str, Tensor] | None = field(init=False)
    due: list[int] = field(init=False)
    ends: list[tuple[str, str]] = field(default_factory=list)
    descents: int = 0
    logged: list[Any] = field(default_factory=list)

    def __post_init__(self) -> None:
        targets = None if self.state.targets is None else self.state.targets.tolist()
        self.outcome = Outcome(notes=self.state.notes, targets=targets)
        self.watch = Watch(self.problem, self.state)
        proposing = any(isinstance(due.phase, ProposalPhase) for due in self.phases)
        self.proposals = Proposals(self.problem, self.state, self.outcome, self._log) if proposing else None
        probing = any(isinstance(due.phase, LossPhase) and due.phase.probes for due in self.phases)  # at the original
        self.original = self.problem.snapshot() if proposing and probing else None
        self.due = list(range(len(self.phases)))

    def whole(self) -> Outcome:
        kept = self._take_up()
        while self.due:
            phase = self.phases[self.due[0]].phase
            if isinstance(phase, ProposalPhase):
                self._propose(phase)
            else:
                self._descend(phase, kept)
            kept = None
            self._keep(None)
        self.outcome.stopped = _in_words(self.ends)
        return self.outcome

    def _propose(self, phase: ProposalPhase) -> None:
        """Takes one proposal and checks what it did; a refused one ends its cycles."""
        assert self.proposals is not None
        refused, cycle = self.proposals.take(phase)["refused"], self.phases[self.due[0]].cycle
        if not refused:
            figures = {"phase": phase.name} | self.watch.check(self.outcome.steps).figures()
            self.outcome.history.append(figures)
            self._log(figures)
        self.ends.append((phase.name, f"refused: {refused}" if refused else "the step was taken"))
        self.due = [
            place for place in self.due[1:] if not refused or cycle is None or self.phases[place].cycle != cycle
        ]

    def _descend(self, phase: LossPhase, kept: Mapping[str, Any] | None) -> None:
        """Runs a loss phase, or what is left of it."""
        budgeted = self.tokens is not None
        if self.tokens is not None and kept is None:
            rest = [self.phases[place].phase for place in self.due]
            left = self.tokens - self.outcome.tokens
            phase = replace(phase, steps=steps_within(self.problem, self.state, rest, left))
        run = Descending(
            self.problem, self.state, phase, self.watch, self._log, self.outcome, budgeted,
            number=self.descents, keep=self._keep, original=self.original,
        )  # fmt: skip
        self.ends.append((phase.name, run.whole(kept)))
        self.due, self.descents = self.due[1:], self.descents + 1

    def _log(self, entry: Mapping[str, Any]) -> None:
        self.logged.append(entry)
        self.log(entry)

    def _keep(self, descending: Callable[[], dict[str, Any]] | None) -> None:
        """Keeps where the run is: always after a phase, and within one (`descending`) where that costs little."""
        if self.checkpoints is None:
            return
        if descending is None:
            self.checkpoints.save(NAME, self._held(None))
        else:
            self.checkpoints.offer(NAME, lambda: self._held(descending()))

    def _held(self, descending: Mapping[str, Any] | None) -> dict[str, Any]:
        return {
            "outcome": self.outcome,
            "due": self.due,
            "ends": self.ends,
            "descents": self.descents,
            "logged": self.logged,
            "carried": self.state.carried,
            "portions": self.problem.portions.held(),
            "weights": self.problem.snapshot(),
            "descending": descending,
        }

    def _take_up(self) -> Mapping[str, Any] | None:
        """Puts back what was kept, if anything; returns what the phase that was interrupted needs."""
        kept = self.checkpoints.load(NAME) if self.checkpoints else None
        if kept is None:
            return None
        if kept["outcome"].targets != self.outcome.targets:
            raise InputError(
                "the targets of the forget rows are not those that this run began with, so it cannot go on: the "
                "machine computes otherwise. Begin anew with --restart."
            )
        for name in (part.name for part in fields(Outcome)):
            setattr(self.outcome, name, getattr(kept["outcome"], name))
        self.state.notes, self.state.carried = self.outcome.notes, kept["carried"]
        self.due, self.ends, self.descents = kept["due"], kept["ends"], kept["descents"]
        self.problem.portions.take_up(kept["portions"])
        for entry in kept["logged"]:
            self._log(entry)
        self.problem.restore(kept["weights"])
        descending: Mapping[str, Any] | None = kept["descending"]
        return descending


def steps_within(problem: Problem, state: State, rest: Sequence[LossPhase | ProposalPhase], tokens: int) -> int:
    """Steps of the first of the phases to come, a loss phase, where all of them are to take so many tokens.

    Proposals take what they need; the loss phases share what is left in proportion to their own steps.
    """
    spent = sum(expected_tokens(problem, state, phase) for phase in rest if isinstance(phase, ProposalPhase))
    losses = [phase for phase in rest if isinstance(phase, LossPhase)]
    costs = [phase.steps * tokens_per_step(problem, state, phase) for phase in losses]
    share = max(0.0, tokens - spent) * (costs[0] / sum(costs))
    return max(1, round(share / tokens_per_step(problem, state, losses[0])))


def _in_words(ends: Sequence[tuple[str, str]]) -> str:
    """Why each phase ended; a single one needs no name."""
    if len(ends) == 1:
        return ends[0][1]
    counts = Counter(ends)
    return "; ".join(
        f"{name}: {end}" + (f" ({count} times)" if count > 1 else "") for (name, end), count in counts.items()
    )


def tokens_per_step(problem: Problem, state: State, phase: LossPhase) -> float:
    """Tokens that one step's draws hold on average, padding excluded, and its share of the optimiser's own passes."""
    pool: dict[str, Split] = {**problem.splits, **state.splits}
    drawn = [
        (min(count, len(pool[name].windows)), pool[name].windows) for name, count in phase.draws.items() if name in pool
    ]
    tokens = sum(count * float(np.mean([len(window.ids) for window in windows])) for count, windows in drawn)
    return tokens + refresh_tokens(phase.optimiser, pool, tokens)
