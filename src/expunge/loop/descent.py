"""Runs a loss that is minimised: all steps at a rate that was given, or attempts that lead forget rows to targets.

A phase whose forget rows have targets follows a course (`optim.course`) whose first learning rate comes from a probe;
other phases take all their steps. The state is offered for keeping after each check but the last.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any, TypedDict, cast

from expunge.data.batches import Stream
from expunge.data.passes import Passes, drawing
from expunge.loop import probe
from expunge.loop.attempts import Attempts
from expunge.loop.guard import Guard, Guarded
from expunge.loop.minimise import AfterStep, Minimiser, Saved, linear
from expunge.loop.unlearning import End, Ground, Unlearning
from expunge.loop.watch import watched
from expunge.method import Descend, Probe, Trial
from expunge.optim.course import Course
from expunge.optim.stopping import Check
from expunge.runs.progress import bar

CHECKS = 30  # times an attempt at which the rows are measured
LOOKS = 10  # the same for a method that has no targets, where nothing is steered by them
WARMUP = 20  # one step in so many of a phase that takes all its steps
THERE = 0.1  # of the way between the mean losses: nearer to the targets, a phase has only to repair
APART = 1000  # between the seeds of one descent and the next, so that they do not draw the same rows


def steps_of(phase: Descend, windows: int) -> int:
    """Steps of the phase, or of one full attempt, over so many forget windows."""
    if phase.steps is not None:
        return phase.steps
    assert phase.passes is not None
    return max(1, math.ceil(phase.passes * math.ceil(windows / phase.draws["forget"])))


def work(phase: Descend, ground: Ground, probing: int = 0) -> Passes:
    """One full attempt and so many steps of a probe; further attempts can at most double the steps."""
    steps = steps_of(phase, len(ground.pool["forget"].windows))
    pool = {name: split.windows for name, split in ground.pool.items()}
    trials = [
        (weight * times, shape)
        for name, times in phase.trials.items()
        for weight, shape in drawing(pool, {name: phase.draws[name]}, ground.seed, steps)
    ]
    drawn = Passes(
        trained=drawing(pool, phase.draws, ground.seed, steps + probing, phase.beside),
        measured=trials,
        updates=steps + probing,
        copies=1 if not phase.aims else 3 if probing else 2,  # good weights; an attempt's start; the best so far
    )
    return drawn + phase.optimiser.cost(ground.pool, phase.draws, ground.seed, steps + probing)


def cost(phase: Descend, ground: Ground) -> Passes:
    """That, with its probe and checks."""
    steps = steps_of(phase, len(ground.pool["forget"].windows))
    looks = math.ceil(steps / max(4, steps // CHECKS)) if phase.aims else steps // max(1, steps // LOOKS)
    return work(phase, ground, probe.STEPS if isinstance(phase.rate, Probe) else 0) + watched(ground.pool, looks)


class _Saved(TypedDict):
    steps: int
    attempts: dict[str, Any]
    course: dict[str, float]
    minimiser: Saved


class DescendRunner:
    """Runs a `Descend`. `steps`: in place of its own, in a budget; then there is one attempt."""

    def __init__(self, unlearning: Unlearning, phase: Descend, steps: int | None = None) -> None:
        self.unlearning, self.phase, self.budgeted = unlearning, phase, steps is not None
        self.problem, self.outcome = unlearning.problem, unlearning.outcome
        self.steps = steps or steps_of(phase, len(self.problem.splits["forget"].windows))
        self.before = self.outcome.steps
        self._attempts: Attempts | None = None
        self._course: Course | None = None
        self._minimiser: Minimiser | None = None
        self._guard: Guard | None = None

    def run(self, saved: Mapping[str, object] | None = None) -> End:
        begun = cast(_Saved | None, saved)
        self.steps = begun["steps"] if begun else self.steps
        reason, rate, steps = self._attempted(begun) if self.phase.aims else self._straight(begun)
        self.outcome.learning_rate = rate
        self.outcome.steps += steps
        self.unlearning.descents += 1
        return End(reason)

    def state_dict(self) -> dict[str, object]:
        assert self._minimiser is not None
        attempts = self._attempts
        return {
            "steps": self.steps,
            "attempts": attempts.state_dict() if attempts else None,
            "course": self._course.state_dict() if self._course else None,
            "minimiser": self._minimiser.state_dict(),
        }

    def _straight(self, saved: _Saved | None) -> tuple[str, float, int]:
        """All steps, for methods that have no end of their own: why it ended, its learning rate, the steps."""
        given = self.phase.rate
        assert not isinstance(given, Probe)
        every = max(1, self.steps // LOOKS)
        rate = given if callable(given) else linear(given, self.steps, self.steps // WARMUP)

        def after(step: int, losses: Mapping[str, float]) -> bool:
            if step % every == 0:
                self._record(self.unlearning.watch.check(step), last=step == self.steps)
            return False

        ended = self._guarded(rate, self.steps, after, saved)
        assert self._minimiser is not None
        peak = self._minimiser.stepper.optimiser.param_groups[0]["lr"] if callable(given) else given
        return ended.broken or "all steps were taken", peak, ended.step

    def _attempted(self, saved: _Saved | None) -> tuple[str, float, int]:
        """Attempts at rising or falling rates until the rows have arrived and the rest was not hurt: the best of
        them."""
        self._attempts = attempts = Attempts(**saved["attempts"]) if saved else self._first_attempt()
        while True:
            check, ended = self._attempt(attempts, saved)
            saved = None
            self.outcome.attempts.append(attempts.add(check, ended.step, ended.broken, self.problem.snapshot()))
            fixed = self.budgeted or not isinstance(self.phase.rate, Probe)
            if fixed or attempts.over(check, ended.broken, self.steps):
                break
            self.problem.restore(attempts.start)
        best = attempts.best
        assert best is not None
        self.problem.restore(best["weights"])
        return best["reason"], best["rate"], best["steps"]

    def _attempt(self, attempts: Attempts, saved: _Saved | None) -> tuple[Check, Guarded]:
        state = self.unlearning.state
        self._course = course = Course(
            attempts.rate, self.steps, not isinstance(self.phase.rate, Probe), attempts.repairs
        )
        if saved is not None:
            course.load_state_dict(saved["course"])
        state.pressure = course.pressure
        every = max(4, self.steps // CHECKS)
        last: list[Check] = []

        def after(step: int, losses: Mapping[str, float]) -> bool:
            if step % every == 0 or step == course.end:
                check = self.unlearning.watch.check(step)
                course.see(check)
                state.pressure = course.pressure
                self._record(check, step == course.end, rate=course.rate_at(step), pressure=course.pressure)
                last[:] = [check]
            return step == course.end

        ended = self._guarded(lambda trial: course.rate_at(trial.step), self.steps, after, saved)
        return (self.unlearning.watch.check(ended.step) if ended.broken else last[0]), ended

    def _first_attempt(self) -> Attempts:
        """At the rate that was given, or at that of a probe, which begins at the original."""
        begin, aim = self._way()
        now = float(self.unlearning.watch.check(0).forget.mean()) if self.outcome.proposals else begin
        repairs = abs(aim - now) <= THERE * abs(aim - begin)
        start, given = self.problem.snapshot(), self.phase.rate
        if not isinstance(given, Probe):
            assert not callable(given)
            return Attempts(start, given, repairs)
        if self.unlearning.original is not None:
            self.problem.restore(self.unlearning.original)
        ramp = probe.ramp(lambda after: self._probe(after), begin, aim)
        self.problem.restore(start)
        if self.budgeted:
            self.steps = max(1, self.steps - ramp.steps)
        draws = len(self.problem.splits["forget"].windows) / self.phase.draws["forget"]
        rate = ramp.rate(self.steps, draws, repairs)
        self.outcome.probe = {"trace": ramp.trace, "path": ramp.path, "learning_rate": rate}
        return Attempts(start, rate, repairs)

    def _probe(self, after: AfterStep) -> int:
        return self._minimise(lambda trial: probe.rate_at(trial.step), probe.STEPS, after, "probe")

    def _way(self) -> tuple[float, float]:
        """Mean loss of the watched forget rows in the original, and their mean target."""
        watch = self.unlearning.watch
        assert watch.targets is not None
        return float(watch.start["forget"].mean()), float(watch.targets.mean())

    def _guarded(self, rate: Callable[[Trial], float], steps: int, after: AfterStep, saved: _Saved | None) -> Guarded:
        begin = saved["minimiser"] if saved else None
        self._guard = Guard.here(self.problem, begin["step"] if begin else 0)
        return self._guard.over(lambda: self._minimise(rate, steps, after, "unlearning", begin))

    def _minimise(
        self,
        rate: Callable[[Trial], float],
        steps: int,
        after: AfterStep,
        title: str,
        begin: Saved | None = None,
    ) -> int:
        """Steps of the phase at a rate; `begin`: the state of a minimiser to go on from."""
        problem, state, phase, pool = self.problem, self.unlearning.state, self.phase, self.unlearning.pool
        seed = problem.seed + APART * self.unlearning.descents
        streams = {
            name: Stream(name, pool[name].windows, seed + place)
            for place, name in enumerate(phase.draws)
            if name in pool
        }
        problem.model.eval()  # no dropout: targets and the original's distributions were measured without it
        place = {"phase": phase.name, "during": title, "attempt": self._number}

        def note(name: str, figures: Mapping[str, object]) -> None:
            self.outcome.notes.setdefault(name, []).append(place | dict(figures))

        stepper = phase.optimiser.begin(problem, pool, seed, note)
        self._minimiser = minimiser = Minimiser(
            problem,
            stepper,
            streams,
            phase.draws,
            lambda batch: phase.loss(problem, state, batch),
            rate,
            steps,
            phase.combine,
            state,
            {name: pool[other].windows for name, other in phase.beside.items()},
        )
        if begin is not None:
            minimiser.load_state_dict(begin)
        try:
            with bar(title, steps) as report:
                return minimiser.run(after, report)
        finally:
            self.outcome.tokens += minimiser.tokens
            self.outcome.row_passes += minimiser.row_passes

    @property
    def _number(self) -> int:
        return len(self._attempts.made) + 1 if self._attempts else 1

    def _record(self, check: Check, last: bool, **settings: float) -> None:
        figures: dict[str, Any] = {"attempt": self._number} | settings | check.figures()
        figures |= {"phase": self.phase.name, "step": self.before + check.step}
        self.outcome.history.append(figures)
        self.unlearning.log(figures)
        assert self._guard is not None
        if self._guard.see(check) and not last:
            self.unlearning.keep(self.state_dict)
