"""One loss phase: probe for the learning rate, attempts, checks, guard and stop.

A phase whose forget rows have targets follows a course (`optim.course`) whose first learning rate comes from a probe;
other phases take all their steps at the rate they were given. What a phase must remember to go on after an
interruption is handed to `keep` after each check but the last.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from expunge.data.batches import Batch, Stream
from expunge.errors import NumericalError
from expunge.influence.refresh import CurvatureRefresh, begin
from expunge.loop.steps import AfterStep, Descent, held, linear, minimise, optimiser_of, take_up
from expunge.loop.watch import Log, Outcome, Watch
from expunge.method import LossPhase, State, Terms
from expunge.optim.course import TRAVEL_SHARE, Course
from expunge.optim.stopping import Check
from expunge.problem import Problem, Split
from expunge.runs.progress import bar

CHECKS = 30  # times an attempt at which the rows are measured
LOOKS = 10  # the same for a method that has no targets, where nothing is steered by them
PROBE_STEPS = 18
PROBE_FIRST_RATE = 1e-6
PROBE_GROWTH = 2.0
CAUTION = 0.33  # share of the probe's path that the first half of the steps are to go: large steps wander
MOST_NOISE = (
    1.5  # factor for requests that take many draws: a step sees few of the rows; the course raises what is too low
)
MENDING = (1 + TRAVEL_SHARE) / 2  # of the steps at the full rate, for a repair: its travel, and half of its settling
THERE = 0.1  # of the way between the mean losses: nearer to the targets, a phase has only to repair
ATTEMPTS = 3
APART = 1000  # between the seeds of one loss phase and the next, so that they do not draw the same rows
Keep = Callable[[Callable[[], dict[str, Any]]], None]


@dataclass(frozen=True, slots=True)
class Best:
    """The best attempt so far."""

    score: float
    reason: str
    rate: float
    steps: int
    weights: dict[str, torch.Tensor]


@dataclass(slots=True)
class Descending:
    """One phase over its attempts; `number` counts the loss phases before it."""

    problem: Problem
    state: State
    phase: LossPhase
    watch: Watch
    log: Log
    outcome: Outcome
    budgeted: bool = False
    number: int = 0
    keep: Keep | None = None
    original: Mapping[str, torch.Tensor] | None = None  # its weights, where proposals have moved them
    before: int = field(init=False)
    seen: int = 0
    attempts: list[dict[str, Any]] = field(default_factory=list)
    good: dict[str, torch.Tensor] = field(default_factory=dict)
    broken: str = ""
    _aiming: dict[str, Any] = field(default_factory=dict)
    _optimiser: torch.optim.Optimizer | None = None
    _refresh: CurvatureRefresh | None = None

    def __post_init__(self) -> None:
        self.before = self.outcome.steps

    def whole(self, kept: Mapping[str, Any] | None = None) -> str:
        """Runs it all, or what is left of it after what an earlier process `kept`; returns why it ended."""
        if kept is not None:
            self.attempts, self.phase = kept["attempts"], replace(self.phase, steps=kept["steps"])
        return self.with_targets(kept) if self.phase.aims else self.plainly(kept)

    def plainly(self, kept: Mapping[str, Any] | None) -> str:
        """All steps at the given rate, for methods that have no end of their own."""
        assert self.phase.learning_rate is not None
        rate = linear(self.phase.learning_rate, self.phase.steps, self.phase.steps // 20)
        every = max(1, self.phase.steps // LOOKS)

        def after(step: int, losses: Mapping[str, float]) -> bool:
            if step % every == 0:
                self._record(self.watch.check(step), last=step == self.phase.steps)
            return False

        steps = self._guarded(rate, self.phase.steps, after, kept)
        return self._conclude(self.broken or "all steps were taken", self.phase.learning_rate, steps)

    def with_targets(self, kept: Mapping[str, Any] | None) -> str:
        """Attempts at rising or falling rates until the rows have arrived and the rest was not hurt.

        The steps of one full attempt are the budget of all: one that used them up is the last.
        """
        if kept is None:
            start, repairs = self.problem.snapshot(), self._is_there()
            rate, best = self.phase.learning_rate or self._probe(start, repairs), None
        else:
            start, repairs, rate, best = (kept["aiming"][name] for name in ("start", "repairs", "rate", "best"))
        while True:
            self._aiming = {"start": start, "repairs": repairs, "rate": rate, "best": best}
            check, steps = self._attempt(rate, repairs, kept)
            kept = None
            reason = self.broken or check.reason()
            self.attempts.append({"learning_rate": rate, "steps": steps, "outcome": reason} | check.figures())
            self.outcome.attempts.append(self.attempts[-1])
            score = check.score()
            if best is None or score < best.score:
                best = Best(score, reason, rate, steps, self.problem.snapshot())
            used = sum(attempt["steps"] for attempt in self.attempts)
            done = (check.arrived() and not check.hurts() and not self.broken) or self.budgeted
            if done or self.phase.learning_rate or used >= self.phase.steps or len(self.attempts) == ATTEMPTS:
                break
            rate *= 0.5 if check.hurts() or self.broken else 2.0
            self.problem.restore(start)
        assert best is not None
        self.problem.restore(best.weights)
        return self._conclude(best.reason, best.rate, best.steps)

    def _attempt(self, rate: float, repairs: bool, kept: Mapping[str, Any] | None) -> tuple[Check, int]:
        course = Course(rate, self.phase.steps, self.phase.learning_rate is not None, repairs)
        if kept is not None:
            course.take_up(kept["aiming"]["course"])
        self.state.pressure = course.pressure
        every = max(4, self.phase.steps // CHECKS)
        last: list[Check] = []

        def after(step: int, losses: Mapping[str, float]) -> bool:
            if step % every == 0 or step == course.end:
                check = self.watch.check(step)
                course.see(check)
                self.state.pressure = course.pressure
                self._aiming["course"] = course.held()
                self._record(check, step == course.end, rate=course.rate_at(step), pressure=course.pressure)
                last[:] = [check]
            return step == course.end

        taken = self._guarded(course.rate_at, self.phase.steps, after, kept)
        return self.watch.check(taken) if self.broken else last[0], taken

    def _guarded(
        self, rate: Callable[[int], float], steps: int, after: AfterStep, kept: Mapping[str, Any] | None
    ) -> int:
        """Minimises; a loss that is not finite ends it at the weights of the last good check."""
        self.good, self.broken, self.seen = self.problem.snapshot(), "", kept["step"] if kept else 0
        try:
            return self._minimise(rate, steps, after, "unlearning", kept)
        except NumericalError as error:
            self.problem.restore(self.good)
            self.broken = f"{error} The weights of the last good check are kept."
            return self.seen

    def _is_there(self) -> bool:
        """Whether proposals have brought the forget rows to their targets."""
        before, aim = self._way()
        now = float(self.watch.check(0).forget.mean()) if self.outcome.proposals else before
        return abs(aim - now) <= THERE * abs(aim - before)

    def _way(self) -> tuple[float, float]:
        """Mean loss of the forget rows in the original, and their mean target."""
        assert self.watch.targets is not None
        return float(self.watch.start["forget"].mean()), float(self.watch.targets.mean())

    def _probe(self, start: Mapping[str, torch.Tensor], repairs: bool) -> float:
        """A small rate that should arrive, from a ramp of rising rates that begins at the original and is undone.

        AdamW moves every weight by about its learning rate a step, so how far the weights must go is the sum of the
        rates up to the step at which the forget rows arrive. Less than half of that path, since large steps wander, is
        shared out over half of the steps, and more where a step sees few of the forget rows; the course raises the
        rate where that was too little. After proposals the way is the same, since what they broke is about as far to
        mend, but a repair, which does not end on arrival, has nearly all of the steps for it.
        """
        begin, aim = self._way()
        travel = MENDING if repairs else 0.5
        if self.original is not None:
            self.problem.restore(self.original)
        path: list[float] = []
        trace: list[dict[str, float]] = []

        def rate_at(step: int) -> float:
            return PROBE_FIRST_RATE * float(PROBE_GROWTH**step)

        def after(step: int, losses: Mapping[str, float]) -> bool:
            path.append(rate_at(step - 1))
            way = (losses["forget"] - begin) / (aim - begin)
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
        rate = CAUTION * sum(path) * min(MOST_NOISE, math.sqrt(max(1.0, draws))) / (self.phase.steps * travel)
        self.outcome.probe = {"trace": trace, "path": sum(path), "learning_rate": rate}
        return rate

    def _minimise(
        self,
        rate: Callable[[int], float],
        steps: int,
        after: AfterStep,
        title: str,
        kept: Mapping[str, Any] | None = None,
    ) -> int:
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
        optimiser = optimiser_of(self.problem, sophia)
        if kept is not None:
            for name, stream in streams.items():
                stream.skip(self.phase.draws[name], kept["step"])
            take_up(optimiser, kept["optimiser"])
            if sophia is not None:
                sophia.take_up(kept["refresh"])
        self._optimiser, self._refresh = optimiser, sophia
        descent = Descent(rate=rate, steps=steps, begin=kept["step"] if kept else 0, sophia=sophia)
        try:
            with bar(title, steps) as report:
                return minimise(self.problem, optimiser, draw, self._loss, descent, after, report)
        finally:
            self.outcome.tokens += sophia.tokens if sophia else 0

    def _loss(self, batch: Batch) -> Terms:
        return self.phase.loss(self.problem, self.state, batch)

    def _record(self, check: Check, last: bool, **settings: float) -> None:
        figures: dict[str, Any] = {"attempt": len(self.attempts) + 1} | settings | check.figures()
        figures |= {"phase": self.phase.name, "step": self.before + check.step}
        self.seen = check.step
        self.outcome.history.append(figures)
        self.log(figures | {"batch_tokens": self.problem.portions.tokens})
        if np.isfinite(check.forget).all():
            self.good = self.problem.snapshot()
            if self.keep is not None and not last:
                self.keep(self._held)

    def _held(self) -> dict[str, Any]:
        """All that `whole` needs to go on after the check just made, but for the weights."""
        assert self._optimiser is not None
        return {
            "step": self.seen,
            "steps": self.phase.steps,
            "attempts": self.attempts,
            "aiming": self._aiming,
            "optimiser": held(self._optimiser),
            "refresh": self._refresh.held() if self._refresh else None,
        }

    def _conclude(self, stopped: str, rate: float, steps: int) -> str:
        self.outcome.learning_rate = rate
        self.outcome.steps += steps
        return stopped
