"""Applies a method to a problem: walks the list of its phases, and goes on after an interruption.

Each kind of phase has a runner and a cost (`RUNNERS`); what they share is `loop.unlearning`. Everything that depends on
the original alone (targets, caches, what rows measure there) is computed again, so checkpoints keep only what phases
change: weights, `State.carried`, the outcome, where in the list the run is, and the state of a runner within its work.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from expunge.config.commands import EARLIER
from expunge.data.passes import Passes, measuring, total
from expunge.errors import InputError
from expunge.loop import descent, proposals, transforms
from expunge.loop.acceptance import Acceptance, Here, chosen
from expunge.loop.descent import DescendRunner, steps_of
from expunge.loop.proposals import ProposeRunner
from expunge.loop.transforms import TransformRunner
from expunge.loop.unlearning import Cost, Ground, Runner, Unlearning
from expunge.loop.watch import Outcome, Watch, watched
from expunge.method import (
    ACCEPTANCE,
    CHANGE,
    Descend,
    Method,
    Needs,
    Phase,
    Probe,
    Propose,
    Repeat,
    State,
    Step,
    Transform,
    flattened,
)
from expunge.problem import Problem, Split, divided
from expunge.reference import objective
from expunge.reference.replay import expected
from expunge.runs.checkpoint import Checkpoints
from expunge.runs.growing import Log

NAME = "unlearning"


class Kind(NamedTuple):
    """What makes the runner of a kind of phase, what its work costs, and what all of it does, checks included."""

    runner: Callable[..., Runner]
    work: Cost
    cost: Cost


RUNNERS: Mapping[type[Any], Kind] = {
    Descend: Kind(DescendRunner, descent.work, descent.cost),
    Propose: Kind(ProposeRunner, proposals.work, proposals.work),
    Transform: Kind(TransformRunner, transforms.work, transforms.cost),
}


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
    method's own numbers of steps, for fair comparisons: proposals and the probe's steps are part of it, and there is
    one attempt. With `checkpoints`, an interrupted run goes on after its last phase, proposal or check.
    """
    problem = divided(problem, method.needs.parts, method.needs.made)
    before = _before(method, problem).row_passes
    state = method.init(problem)
    return _Walk.at_original(problem, state, method.phases(problem, state), log, tokens, checkpoints, before).run()


@dataclass(frozen=True, slots=True)
class MethodCost:
    """What `init` takes, on the original, and what the phases take; `before` is also what is generated for replay.
    `spare`: row passes that phases which are not likely can take beside."""

    before: Passes
    phases: Passes
    spare: float = 0.0


def cost(method: Method, problem: Problem) -> MethodCost:
    """What a method costs, as `apply` runs it. The problem needs no model, only its splits and shapes of weights."""
    problem = divided(problem, method.needs.parts, method.needs.made)
    state = _expected(method.needs, problem)
    ground, phases = Ground.of(problem, state), method.phases(problem, state)
    steps = flattened([phase for phase in phases if not isinstance(phase, Repeat) or phase.likely])
    others = flattened([phase for phase in phases if isinstance(phase, Repeat) and not phase.likely])
    every, spare = (total(RUNNERS[type(step)].cost(step, ground) for step in some) for some in (steps, others))
    if isinstance(steps[-1], Propose):  # the others end with a check of their own
        every = every + watched(ground.pool, 1)
    every = replace(every, copies=every.copies + _begins_at_original(steps))
    return MethodCost(_before(method, problem), every, spare.row_passes)


def _expected(needs: Needs, problem: Problem) -> State:
    """What is known before `init`: text that stands for what is to be sampled."""
    state = State()
    if needs.replay:
        state.splits["replay"] = expected(needs.replay.texts, needs.replay.tokens, problem.rendering.context).split
    return state


def _before(method: Method, problem: Problem) -> Passes:
    """What `init` takes, and what is kept and watched of the original, of a problem as the method gets it."""
    needs, state, before = method.needs, _expected(method.needs, problem), Passes()
    pool, steps = Ground.of(problem, state).pool, flattened(method.phases(problem, state))
    if needs.replay:
        before = expected(needs.replay.texts, needs.replay.tokens, problem.rendering.context).passes
    for name, what in needs.kept.items():
        if name in pool:
            before = before + _keeping(pool[name], what)
    if _proposes(steps) and ACCEPTANCE in pool:
        measured = chosen(pool)
        again = measuring(measured.windows, 1 if EARLIER in pool else 0)  # where the first model's are kept
        before = before + _keeping(measured, "distributions") + Passes(plain=again)
    if needs.targets:
        before = before + objective.cost(problem)
    return before + method.cost(problem) + watched(pool, 1)


def _proposes(steps: Sequence[Step]) -> bool:
    return any(isinstance(one, Propose) for one in steps)


def _begins_at_original(steps: Sequence[Step]) -> bool:
    """Whether a probe is to begin at weights that proposals have moved, so that a copy of them is kept."""
    return _proposes(steps) and any(isinstance(one, Descend) and isinstance(one.rate, Probe) for one in steps)


def _keeping(split: Split, what: str) -> Passes:
    """A pass over a split, of which the original's distributions at targets or its states at tokens are kept."""
    count = sum(window.targets for window in split.windows) if what == "distributions" else split.tokens
    return Passes(plain=measuring(split.windows), kept=Counter({what: count}))


@dataclass(frozen=True, slots=True)
class _Due:
    """A phase of the list, the place of the outermost `Repeat` that it belongs to, and whether it ends a cycle of it
    after which `until` is asked."""

    step: Step
    cycle: int | None
    until: Callable[[State], bool] | None


def _listed(phases: Sequence[Phase]) -> list[_Due]:
    due: list[_Due] = []
    for place, phase in enumerate(phases):
        if not isinstance(phase, Repeat):
            due.append(_Due(phase, None, None))
            continue
        once = flattened(phase.phases)
        cycle = [_Due(step, place, None) for step in once[:-1]] + [_Due(once[-1], place, phase.until)]
        due += phase.times * cycle
    return due


@dataclass(slots=True)
class _Walk:
    """The phases of one run. `due`: those to come, as indices of the list; `ends`: names and ends of those that ran."""

    phases: list[_Due]
    unlearning: Unlearning
    checkpoints: Checkpoints | None
    due: list[int]
    ends: list[tuple[str, str]]
    logged: list[Any]

    @classmethod
    def at_original(
        cls,
        problem: Problem,
        state: State,
        phases: Sequence[Phase],
        log: Log,
        tokens: int | None,
        checkpoints: Checkpoints | None,
        row_passes: float = 0.0,
    ) -> "_Walk":
        """Before anything moves; `row_passes` went into what `init` computed."""
        listed, logged = _listed(phases), list[Any]()

        def remembered(entry: Mapping[str, object]) -> None:
            said = {"batch_tokens": problem.portions.tokens} | dict(entry)  # an interrupted run's lines have theirs
            logged.append(said)
            log(said)

        targets = None if state.targets is None else state.targets.tolist()
        outcome = Outcome(notes=state.notes, targets=targets, row_passes=row_passes)
        watch, steps = Watch.at_original(problem, state), [one.step for one in listed]
        unlearning = Unlearning(
            problem,
            state,
            watch,
            outcome,
            remembered,
            keep=lambda state: None,
            acceptance=Acceptance.at_original(problem, state) if _proposes(steps) else None,
            original=problem.snapshot() if _begins_at_original(steps) else None,
            budget=tokens,
        )
        walk = cls(listed, unlearning, checkpoints, list(range(len(listed))), [], logged)
        unlearning.keep = walk._offer
        return walk

    def run(self) -> Outcome:
        saved = self._load()
        while self.due:
            one = self.phases[self.due[0]]
            runner = self._runner(one.step, saved)
            end = runner.run(saved)
            saved = None
            if self.unlearning.acceptance is not None and not isinstance(one.step, Propose):
                self.unlearning.acceptance.here = Here()  # what was measured was measured elsewhere
            self.ends.append((one.step.name, end.reason))
            over = end.refused or (one.until is not None and one.until(self.unlearning.state))
            self.due = [
                index
                for index in self.due[1:]
                if not over or one.cycle is None or self.phases[index].cycle != one.cycle
            ]
            if self.checkpoints is not None:
                self.checkpoints.save(NAME, self.state_dict(None))
        outcome = self.unlearning.outcome
        if isinstance(self.phases[-1].step, Propose):  # the others end with a check of their own
            outcome.history.append({"phase": "end"} | self.unlearning.watch.check(outcome.steps).figures())
        outcome.stopped, outcome.change = _in_words(self.ends), self.unlearning.state.carried.get(CHANGE, {})
        return outcome

    def _runner(self, step: Step, saved: Mapping[str, object] | None) -> Runner:
        if isinstance(step, Descend) and self.unlearning.budget is not None:
            rest = [self.phases[index].step for index in self.due]
            left = self.unlearning.budget - self.unlearning.outcome.tokens
            ground = Ground.of(self.unlearning.problem, self.unlearning.state)
            return RUNNERS[Descend].runner(self.unlearning, step, steps_within(rest, ground, left))
        return RUNNERS[type(step)].runner(self.unlearning, step)

    def _offer(self, within: Callable[[], dict[str, object]]) -> None:
        """Keeps where the run is in the midst of a phase, where that costs little."""
        if self.checkpoints is not None:
            self.checkpoints.offer(NAME, lambda: self.state_dict(within()))

    def state_dict(self, within: Mapping[str, object] | None) -> dict[str, object]:
        """All that changed since the original; `within`: the state of the runner at work."""
        problem = self.unlearning.problem
        return {
            "outcome": self.unlearning.outcome.state_dict(),
            "due": self.due,
            "ends": self.ends,
            "descents": self.unlearning.descents,
            "logged": self.logged,
            "carried": self.unlearning.state.carried,
            "measured": self._measured(),
            "portions": problem.portions.state_dict(),
            "weights": problem.snapshot(),
            "within": within,
        }

    def _measured(self) -> list[object] | None:
        """What is known of the current weights, so that a run that goes on measures as often as one that was whole."""
        acceptance = self.unlearning.acceptance
        return None if acceptance is None else [acceptance.here.forget, acceptance.here.retain]

    def _load(self) -> Mapping[str, object] | None:
        """Puts back what was kept, if anything; returns what the runner that was interrupted needs."""
        saved = self.checkpoints.load(NAME) if self.checkpoints else None
        if saved is None:
            return None
        unlearning = self.unlearning
        if saved["outcome"]["targets"] != unlearning.outcome.targets:
            raise InputError(
                "the targets of the forget rows are not those that this run began with, so it cannot go on: the "
                "machine computes otherwise. Begin anew with --restart."
            )
        unlearning.outcome.load_state_dict(saved["outcome"])
        unlearning.state.notes, unlearning.state.carried = unlearning.outcome.notes, saved["carried"]
        self.due, self.ends, unlearning.descents = saved["due"], saved["ends"], saved["descents"]
        if unlearning.acceptance is not None:
            unlearning.acceptance.here = Here(*saved["measured"])
        unlearning.problem.portions.load_state_dict(saved["portions"])
        for entry in saved["logged"]:
            unlearning.log(entry)
        unlearning.problem.restore(saved["weights"])
        within: Mapping[str, Any] | None = saved["within"]
        return within


def steps_within(rest: Sequence[Step], ground: Ground, tokens: float) -> int:
    """Steps of the first of the phases to come, a descent, where all of them are to take so many tokens.

    Other phases take what they need; the descents share what is left in proportion to their own steps. Checks, which
    everyone makes, are not counted.
    """
    windows = len(ground.pool["forget"].windows)
    spent = sum(_tokens(step, ground) for step in rest if not isinstance(step, Descend))
    descents = [step for step in rest if isinstance(step, Descend)]
    own = [_tokens(step, ground) for step in descents]
    share = max(0.0, tokens - spent) * (own[0] / sum(own))
    return max(1, round(share / own[0] * steps_of(descents[0], windows)))


def _tokens(step: Step, ground: Ground) -> float:
    return RUNNERS[type(step)].work(step, ground).tokens


def _in_words(ends: Sequence[tuple[str, str]]) -> str:
    """Why each phase ended; a single one needs no name."""
    if len(ends) == 1:
        return ends[0][1]
    counts = Counter(ends)
    return "; ".join(
        f"{name}: {end}" + (f" ({count} times)" if count > 1 else "") for (name, end), count in counts.items()
    )
