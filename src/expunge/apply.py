"""Applies a method to a problem, phase by phase: probe for the learning rate, attempts, checks, guard and stop.

A loss phase whose forget rows have targets follows a course (`optim.course`) whose first learning rate comes from a
probe; other loss phases take all their steps at the rate they were given. Proposals are taken in `propose`.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from expunge.curvature_refresh import begin, refresh_tokens
from expunge.data.batches import Batch, Stream
from expunge.errors import NumericalError
from expunge.loop import AfterStep, Descent, linear, minimise
from expunge.method import LossPhase, Method, ProposalPhase, Repeat, State, flattened
from expunge.optim.course import Course
from expunge.optim.stopping import Check
from expunge.penalty import PARTS, Penalty, PenaltySettings
from expunge.problem import Problem, Split, divided
from expunge.progress import bar
from expunge.propose import Proposals, expected_tokens
from expunge.watch import Log, Outcome, Watch

CHECKS = 30  # times an attempt at which the rows are measured
LOOKS = 10  # the same for a method that has no targets, where nothing is steered by them
PROBE_STEPS = 18
PROBE_FIRST_RATE = 1e-6
PROBE_GROWTH = 2.0
CAUTION = 0.33  # share of the probe's path that the first half of the steps are to go: large steps wander
MOST_NOISE = (
    1.5  # factor for requests that take many draws: a step sees few of the rows; the course raises what is too low
)
LEAST_DISTANCE = 0.1  # of the way from the original's loss, for a probe that begins at its targets
ATTEMPTS = 3
APART = 1000  # between the seeds of one loss phase and the next, so that they do not draw the same rows


def apply(
    method: Method, problem: Problem, log: Log, tokens: int | None = None, penalty: PenaltySettings | None = None
) -> Outcome:
    """Unlearns: the problem's model ends unlearned, in evaluation mode.

    A loss that is not finite ends an attempt at the weights of the last good check, and the outcome says so. A proposal
    that is refused ends the `Repeat` around it, and the next phase begins. `tokens` is a budget in place of the
    method's own number of steps, for fair comparisons: proposals and the probe's steps are part of it, and there is
    one attempt. `penalty` is added to every loss phase.
    """
    problem = divided(problem, getattr(method, "retain_parts", PARTS if penalty else {}))
    state = method.init(problem)
    added = Penalty(problem, penalty) if penalty else None
    outcome = Outcome(notes=state.notes, targets=None if state.targets is None else state.targets.tolist())
    queue = [
        _Due(phase, place if isinstance(given, Repeat) else None)
        for place, given in enumerate(method.phases(problem, state))
        for phase in flattened((given,))
    ]
    watch = Watch(problem, state)
    proposing = any(isinstance(due.phase, ProposalPhase) for due in queue)
    proposals = Proposals(problem, state, outcome, log) if proposing else None
    ends: list[tuple[str, str]] = []
    descents = 0
    while queue:
        phase, cycle = queue[0].phase, queue[0].cycle
        if isinstance(phase, ProposalPhase):
            assert proposals is not None
            refused = _proposed(proposals, phase, watch)
            ends.append((phase.name, f"refused: {refused}" if refused else "the step was taken"))
            queue = [due for due in queue[1:] if not refused or cycle is None or due.cycle != cycle]
            continue
        if tokens is not None:
            rest = [due.phase for due in queue]
            phase = replace(phase, steps=steps_within(problem, state, rest, tokens - outcome.tokens))
        run = _Run(problem, state, phase, watch, log, outcome, tokens is not None, number=descents, penalty=added)
        ends.append((phase.name, run.whole()))
        queue, descents = queue[1:], descents + 1
    outcome.stopped = _in_words(ends)
    if added:
        outcome.notes["penalty"] = added.figures()
    return outcome


@dataclass(frozen=True, slots=True)
class _Due:
    """A phase that is still to come, and the place of the outermost `Repeat` that it belongs to."""

    phase: LossPhase | ProposalPhase
    cycle: int | None


def _proposed(proposals: Proposals, phase: ProposalPhase, watch: Watch) -> str:
    """Takes one proposal and checks what it did; returns why it was refused, or nothing."""
    if refused := proposals.take(phase)["refused"]:
        return str(refused)
    figures = {"phase": phase.name} | watch.check(proposals.outcome.steps).figures()
    proposals.outcome.history.append(figures)
    proposals.log(figures)
    return ""


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


@dataclass(frozen=True, slots=True)
class _Best:
    """The best attempt so far."""

    score: float
    reason: str
    rate: float
    steps: int
    weights: dict[str, torch.Tensor]


@dataclass(slots=True)
class _Run:
    problem: Problem
    state: State
    phase: LossPhase
    watch: Watch
    log: Log
    outcome: Outcome
    budgeted: bool = False
    number: int = 0
    penalty: Penalty | None = None
    before: int = field(init=False)
    seen: int = 0
    attempts: list[dict[str, Any]] = field(default_factory=list)
    good: dict[str, torch.Tensor] = field(default_factory=dict)
    broken: str = ""

    def __post_init__(self) -> None:
        self.before = self.outcome.steps

    def whole(self) -> str:
        """Runs it all; returns why it ended."""
        return self.with_targets() if self.phase.aims else self.plainly()

    def plainly(self) -> str:
        """All steps at the given rate, for methods that have no end of their own."""
        assert self.phase.learning_rate is not None
        rate = linear(self.phase.learning_rate, self.phase.steps, self.phase.steps // 20)
        every = max(1, self.phase.steps // LOOKS)

        def after(step: int, losses: Mapping[str, float]) -> bool:
            if step % every == 0:
                self._record(self.watch.check(step))
            return False

        steps = self._guarded(rate, self.phase.steps, after)
        return self._conclude(self.broken or "all steps were taken", self.phase.learning_rate, steps)

    def with_targets(self) -> str:
        """Attempts at rising or falling rates until the rows have arrived and the rest was not hurt.

        The steps of one full attempt are the budget of all: one that used them up is the last.
        """
        start = self.problem.snapshot()
        rate = self.phase.learning_rate or self._probe(start)
        best: _Best | None = None
        while True:
            check, steps = self._attempt(rate)
            reason = self.broken or check.reason()
            self.attempts.append({"learning_rate": rate, "steps": steps, "outcome": reason} | check.figures())
            self.outcome.attempts.append(self.attempts[-1])
            score = check.score()
            if best is None or score < best.score:
                best = _Best(score, reason, rate, steps, self.problem.snapshot())
            used = sum(attempt["steps"] for attempt in self.attempts)
            done = (check.arrived() and not check.hurts() and not self.broken) or self.budgeted
            if done or self.phase.learning_rate or used >= self.phase.steps or len(self.attempts) == ATTEMPTS:
                break
            rate *= 0.5 if check.hurts() or self.broken else 2.0
            self.problem.restore(start)
        assert best is not None
        self.problem.restore(best.weights)
        return self._conclude(best.reason, best.rate, best.steps)

    def _attempt(self, rate: float) -> tuple[Check, int]:
        course = Course(rate, self.phase.steps, fixed=self.phase.learning_rate is not None)
        self.state.pressure = 1.0
        every = max(4, self.phase.steps // CHECKS)
        last: list[Check] = []

        def after(step: int, losses: Mapping[str, float]) -> bool:
            if step % every == 0 or step == course.end:
                check = self.watch.check(step)
                course.see(check)
                self.state.pressure = course.pressure
                self._record(check, rate=course.rate_at(step), pressure=course.pressure)
                last[:] = [check]
            return step == course.end

        taken = self._guarded(course.rate_at, self.phase.steps, after)
        return self.watch.check(taken) if self.broken else last[0], taken

    def _guarded(self, rate: Callable[[int], float], steps: int, after: AfterStep) -> int:
        """Minimises; a loss that is not finite ends it at the weights of the last good check."""
        self.good, self.broken, self.seen = self.problem.snapshot(), "", 0
        try:
            return self._minimise(rate, steps, after, "unlearning")
        except NumericalError as error:
            self.problem.restore(self.good)
            self.broken = f"{error} The weights of the last good check are kept."
            return self.seen

    def _probe(self, start: Mapping[str, torch.Tensor]) -> float:
        """A small rate that should arrive, from a ramp of rising rates, undone.

        AdamW moves every weight by about its learning rate a step, so how far the weights must go is the sum of the
        rates up to the step at which the forget rows arrive. Less than half of that path, since large steps wander, is
        shared out over half of the steps, and more where a step sees few of the forget rows; the course raises the
        rate where that was too little. After proposals the way begins where they ended.
        """
        assert self.watch.targets is not None
        start_loss, aim = float(self.watch.start["forget"].mean()), float(self.watch.targets.mean())
        begin = float(self.watch.check(0).forget.mean()) if self.outcome.proposals else start_loss
        distance = max(aim - begin, LEAST_DISTANCE * (aim - start_loss), key=abs)
        path: list[float] = []
        trace: list[dict[str, float]] = []

        def rate_at(step: int) -> float:
            return PROBE_FIRST_RATE * float(PROBE_GROWTH**step)

        def after(step: int, losses: Mapping[str, float]) -> bool:
            path.append(rate_at(step - 1))
            way = (losses["forget"] - begin) / distance
            trace.append({"rate": path[-1], "path": sum(path), "way": way})
            return way >= 0.9

        try:
            self._minimise(rate_at, PROBE_STEPS, after, "probe")
        except NumericalError:
            trace.append({"rate": rate_at(len(path)), "path": sum(path), "way": float("nan")})
        self.problem.restore(start)
        if self.budgeted:
            self.phase = replace(self.phase, steps=max(1, self.phase.steps - len(path)))
        draws = len(self.problem.splits["forget"].windows) / self.phase.draws["forget"]
        rate = CAUTION * sum(path) * min(MOST_NOISE, math.sqrt(max(1.0, draws))) / (self.phase.steps / 2)
        self.outcome.probe = {"trace": trace, "path": sum(path), "learning_rate": rate}
        return rate

    def _minimise(self, rate: Callable[[int], float], steps: int, after: AfterStep, title: str) -> int:
        pool: dict[str, Split] = {**self.problem.splits, **self.state.splits}
        streams = {
            name: Stream(name, pool[name].windows, self.problem.seed + APART * self.number + place)
            for place, name in enumerate(self.phase.draws)
            if name in pool
        }

        def draw(step: int) -> list[Batch]:
            batches = [batch for name, stream in streams.items() for batch in stream.draw(self.phase.draws[name])]
            self.outcome.tokens += sum(int(batch.attention.sum()) for batch in batches)
            return batches

        self.problem.model.eval()  # no dropout: targets and the original's distributions were measured without it
        place = {"phase": self.phase.name, "during": title, "attempt": len(self.attempts) + 1}
        seed, notes = self.problem.seed + APART * self.number, self.outcome.notes
        sophia = begin(self.problem, self.phase.optimiser, pool, seed, notes, place)
        try:
            with bar(title, steps) as report:
                return minimise(
                    self.problem,
                    draw,
                    lambda batch: self.phase.loss(self.problem, self.state, batch),
                    Descent(rate=rate, steps=steps, sophia=sophia, penalty=self.penalty.add if self.penalty else None),
                    after,
                    report,
                )
        finally:
            self.outcome.tokens += sophia.tokens if sophia else 0

    def _record(self, check: Check, **settings: float) -> None:
        figures: dict[str, Any] = {"attempt": len(self.attempts) + 1} | settings | check.figures()
        figures |= {"phase": self.phase.name, "step": self.before + check.step}
        self.seen = check.step
        if self.penalty:
            self.penalty.look(self.before + check.step)
        self.outcome.history.append(figures)
        self.log(figures | {"batch_tokens": self.problem.portions.tokens})
        if np.isfinite(check.forget).all():
            self.good = self.problem.snapshot()

    def _conclude(self, stopped: str, rate: float, steps: int) -> str:
        self.outcome.learning_rate = rate
        self.outcome.steps += steps
        return stopped
