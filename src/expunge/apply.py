"""Applies a method to a problem: probe for the learning rate, attempts, checks, guard and stop.

A method whose forget rows have targets follows a course (`optim.course`) whose first learning rate comes from a probe;
other methods take all their steps at the rate they were given.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from expunge.curvature_refresh import CurvatureRefresh, refresh_tokens
from expunge.data.batches import Batch, Stream
from expunge.errors import NumericalError
from expunge.loop import AfterStep, Descent, linear, minimise
from expunge.method import LossPhase, Method, State, flattened
from expunge.optim.course import Course
from expunge.optim.stopping import Check
from expunge.problem import Problem, Split
from expunge.progress import bar
from expunge.reference.cache import row_losses

MOST_WATCHED = {"forget": 128, "retain": 48, "guard": 48}
CHECKS = 30  # times an attempt at which the rows are measured
LOOKS = 10  # the same for a method that has no targets, where nothing is steered by them
PROBE_STEPS = 18
PROBE_FIRST_RATE = 1e-6
PROBE_GROWTH = 2.0
CAUTION = 0.33  # share of the probe's path that the first half of the steps are to go: large steps wander
MOST_NOISE = (
    1.5  # factor for requests that take many draws: a step sees few of the rows; the course raises what is too low
)
ATTEMPTS = 3
Log = Callable[[Mapping[str, Any]], None]


@dataclass(slots=True)
class Outcome:
    """How a method's run went, for the record. `tokens` went through the model in optimiser steps, padding excluded."""

    stopped: str = ""
    learning_rate: float = 0.0
    steps: int = 0
    tokens: int = 0
    probe: dict[str, Any] | None = None
    attempts: list[dict[str, Any]] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)
    targets: list[float] | None = None


class Watch:
    """Measures the current model on forget, retain and guard rows (a spread of each), against the original."""

    def __init__(self, problem: Problem, state: State) -> None:
        self.problem = problem
        self.splits = {
            name: _spread(problem.splits[name], most) for name, most in MOST_WATCHED.items() if name in problem.splits
        }
        self.start = {name: self._losses(name) for name in self.splits}
        kept = _places(len(problem.splits["forget"].rows), MOST_WATCHED["forget"])
        self.targets = None if state.targets is None else state.targets.cpu().double().numpy()[kept]

    def check(self, step: int) -> Check:
        """Losses now; one forward pass over the watched rows."""
        now = {name: self._losses(name) for name in self.splits}
        means = {name: float(values.mean()) for name, values in now.items()}
        return Check(
            step=step,
            forget=now["forget"],
            start=self.start["forget"],
            targets=self.targets,
            retain=means.get("retain"),
            retain_start=float(self.start["retain"].mean()) if "retain" in self.start else None,
            guard=means.get("guard"),
            guard_start=float(self.start["guard"].mean()) if "guard" in self.start else None,
        )

    def _losses(self, name: str) -> NDArray[np.float64]:
        return row_losses(self.problem, self.problem.model, self.splits[name]).numpy()


def apply(method: Method, problem: Problem, log: Log, tokens: int | None = None) -> Outcome:
    """Unlearns: the problem's model ends unlearned, in evaluation mode.

    A loss that is not finite ends an attempt at the weights of the last good check, and the outcome says so. `tokens`
    is a budget in place of the method's own number of steps, for fair comparisons: the probe's steps are part of it,
    and there is one attempt.
    """
    state = method.init(problem)
    (phase,) = flattened(method.phases(problem, state))
    assert isinstance(phase, LossPhase)
    if tokens is not None:
        phase = replace(phase, steps=max(1, round(tokens / tokens_per_step(problem, state, phase))))
    watch = Watch(problem, state)
    targets = None if state.targets is None else state.targets.tolist()
    outcome = Outcome(notes=state.notes, targets=targets)
    run = _Run(problem, state, phase, watch, log, outcome, budgeted=tokens is not None)
    if phase.aims:
        run.with_targets()
    else:
        run.plainly()
    return outcome


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
    good: dict[str, torch.Tensor] = field(default_factory=dict)
    broken: str = ""

    def plainly(self) -> None:
        """All steps at the given rate, for methods that have no end of their own."""
        assert self.phase.learning_rate is not None
        rate = linear(self.phase.learning_rate, self.phase.steps, self.phase.steps // 20)
        every = max(1, self.phase.steps // LOOKS)

        def after(step: int, losses: Mapping[str, float]) -> bool:
            if step % every == 0:
                self._record(self.watch.check(step))
            return False

        steps = self._guarded(rate, self.phase.steps, after)
        self._conclude(self.broken or "all steps were taken", self.phase.learning_rate, steps)

    def with_targets(self) -> None:
        """Attempts at rising or falling rates until the rows have arrived and the rest was not hurt.

        The steps of one full attempt are the budget of all: one that used them up is the last.
        """
        start = self.problem.snapshot()
        rate = self.phase.learning_rate or self._probe(start)
        best: _Best | None = None
        while True:
            check, steps = self._attempt(rate)
            reason = self.broken or _reason(check)
            self.outcome.attempts.append({"learning_rate": rate, "steps": steps, "outcome": reason} | check.figures())
            score = _score(check)
            if best is None or score < best.score:
                best = _Best(score, reason, rate, steps, self.problem.snapshot())
            used = sum(attempt["steps"] for attempt in self.outcome.attempts)
            done = (check.arrived() and not check.hurts() and not self.broken) or self.budgeted
            if done or self.phase.learning_rate or used >= self.phase.steps or len(self.outcome.attempts) == ATTEMPTS:
                break
            rate *= 0.5 if check.hurts() or self.broken else 2.0
            self.problem.restore(start)
        assert best is not None
        self.problem.restore(best.weights)
        self._conclude(best.reason, best.rate, best.steps)

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
        self.good, self.broken = self.problem.snapshot(), ""
        try:
            return self._minimise(rate, steps, after, "unlearning")
        except NumericalError as error:
            self.problem.restore(self.good)
            self.broken = f"{error} The weights of the last good check are kept."
            return self.outcome.history[-1]["step"] if self.outcome.history else 0

    def _probe(self, start: Mapping[str, torch.Tensor]) -> float:
        """A small rate that should arrive, from a ramp of rising rates, undone.

        AdamW moves every weight by about its learning rate a step, so how far the weights must go is the sum of the
        rates up to the step at which the forget rows arrive. Less than half of that path, since large steps wander, is
        shared out over half of the steps, and more where a step sees few of the forget rows; the course raises the
        rate where that was too little.
        """
        assert self.watch.targets is not None
        begin, aim = float(self.watch.start["forget"].mean()), float(self.watch.targets.mean())
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
        rate = CAUTION * sum(path) * min(MOST_NOISE, math.sqrt(max(1.0, draws))) / (self.phase.steps / 2)
        self.outcome.probe = {"trace": trace, "path": sum(path), "learning_rate": rate}
        return rate

    def _minimise(self, rate: Callable[[int], float], steps: int, after: AfterStep, title: str) -> int:
        pool: dict[str, Split] = {**self.problem.splits, **self.state.splits}
        streams = {
            name: Stream(name, pool[name].windows, self.problem.seed + place)
            for place, name in enumerate(self.phase.draws)
            if name in pool
        }

        def draw(step: int) -> list[Batch]:
            batches = [batch for name, stream in streams.items() for batch in stream.draw(self.phase.draws[name])]
            self.outcome.tokens += sum(int(batch.attention.sum()) for batch in batches)
            return batches

        self.problem.model.eval()  # no dropout: targets and the original's distributions were measured without it
        sophia = self._sophia(pool, title)
        try:
            with bar(title, steps) as report:
                return minimise(
                    self.problem,
                    draw,
                    lambda batch: self.phase.loss(self.problem, self.state, batch),
                    Descent(rate=rate, steps=steps, sophia=sophia),
                    after,
                    report,
                )
        finally:
            self.outcome.tokens += sophia.tokens if sophia is not None else 0

    def _sophia(self, pool: Mapping[str, Split], title: str) -> CurvatureRefresh | None:
        """Sophia where the phase asks for it, with notes on its clipping for the record."""
        if self.phase.optimiser is None:
            return None
        notes, place = self.outcome.notes.setdefault("sophia", []), {"during": title, "phase": self.phase.name}
        attempt = len(self.outcome.attempts) + 1
        return CurvatureRefresh(
            self.problem,
            self.phase.optimiser,
            pool,
            lambda figures: notes.append(place | {"attempt": attempt} | dict(figures)),
        )

    def _record(self, check: Check, **settings: float) -> None:
        figures = {"attempt": len(self.outcome.attempts) + 1} | settings | check.figures()
        self.outcome.history.append(figures)
        self.log(figures)
        if np.isfinite(check.forget).all():
            self.good = self.problem.snapshot()

    def _conclude(self, stopped: str, rate: float, steps: int) -> None:
        self.outcome.stopped, self.outcome.learning_rate, self.outcome.steps = stopped, rate, steps


def _reason(check: Check) -> str:
    if check.hurts():
        return "the guard rows' loss rose beyond the guard"
    if not check.arrived():
        return "the attempt ended before the forget rows were at their targets"
    return "the forget rows are at their targets" + (
        " and the retain rows are back" if check.retain_back() else "; the retain rows are not wholly back"
    )


def _score(check: Check) -> float:
    """What attempts are compared by: mean distance from the targets plus what retain and guard rows lost, in nats."""
    distance = float(np.abs(1 - np.clip(check.way(), -1, 3)).mean())
    lost = [
        max(0.0, now - then)
        for now, then in ((check.retain, check.retain_start), (check.guard, check.guard_start))
        if now is not None and then is not None
    ]
    return distance + sum(lost)


def _places(count: int, most: int) -> list[int]:
    """At most `most` of `count` places, spread evenly."""
    return [int(place) for place in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


def _spread(split: Split, most: int) -> Split:
    new = {place: index for index, place in enumerate(_places(len(split.rows), most))}
    windows = tuple(replace(window, row=new[window.row]) for window in split.windows if window.row in new)
    return Split(split.name, tuple(split.rows[place] for place in new), windows)
