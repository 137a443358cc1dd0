"""Takes the step that a method proposes, or refuses it.

A step is searched by its rule (`optim.step_size`) with the weights set to start + step * direction and measured on
acceptance rows (`loop.acceptance`). A refused proposal leaves the weights as they were, bit for bit.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import torch
from torch import Tensor

from expunge.data.passes import MEASURING, Passes, Weighed, measuring
from expunge.errors import NumericalError
from expunge.loop.acceptance import Here, chosen
from expunge.loop.unlearning import End, Ground, Unlearning
from expunge.method import ACCEPTANCE, Proposal, Propose
from expunge.optim.search import Found, Measured, Refused

HALVINGS = 2  # of a step that brings forget rows back; our choice
SMALL = 1e-3  # of the norm of the weights that move: the first guess where nothing is known; our choice


def work(phase: Propose, ground: Ground) -> Passes:
    """The proposal's own passes, and the usual number of measurements of a search, of which its history is made too.

    Gradient, direction and a snapshot of the weights live together, beside what the method keeps of a curvature.
    """
    known = ACCEPTANCE in ground.pool  # else they are sampled, which a plan does not do
    accepted = measuring(chosen(ground.pool).windows) if known else []
    forget = measuring(ground.pool["forget"].windows)
    rule = phase.step
    search = [
        (rule.usual if rule.needs_retain else 1, accepted),
        (rule.usual if rule.needs_distance or rule.needs_forget else 1, forget),
    ]
    return Passes(
        trained=_passing(phase.passes, ground),
        measured=[(times * many, shape) for times, shapes in search for many, shape in shapes],
        updates=1,
        copies=1,
        bytes=phase.bytes(ground.shapes),
        products=phase.products(ground.shapes),
    )


def _passing(passes: Mapping[str, float], ground: Ground) -> Weighed:
    """The passes that the proposal itself takes."""
    pool = ground.pool
    return [part for name, times in passes.items() if name in pool for part in measuring(pool[name].windows, times)]


@dataclass(frozen=True, slots=True)
class _Before:
    """The weights and what they measure before a proposal."""

    weights: dict[str, Tensor]
    here: Here
    measured: Measured


@dataclass(frozen=True, slots=True)
class _Search:
    """A direction, its norm, where the rule began, where it ended, and what was seen at each step."""

    direction: Mapping[str, Tensor]
    norm: float
    guess: float | None
    result: Found | Refused
    seen: Mapping[float, Here]


class ProposeRunner:
    """Takes one proposal: there is nothing between its beginning and its end to go on from."""

    def __init__(self, unlearning: Unlearning, phase: Propose) -> None:
        assert unlearning.acceptance is not None
        self.unlearning, self.phase = unlearning, phase
        self.problem, self.acceptance = unlearning.problem, unlearning.acceptance
        self.over = False  # the `Repeat` around it, whatever the phase says of refusals

    def state_dict(self) -> dict[str, object]:
        return {}

    def run(self, saved: Mapping[str, object] | None = None) -> End:
        """Takes the step that the rule finds, or restores the weights; the figures go to `Outcome.proposals`.

        Tokens of the search are counted in both.
        """
        entry = self.take()
        if refused := entry["refused"]:
            return End(f"refused: {refused}", refused=self.over or not self.phase.optional)
        outcome = self.unlearning.outcome
        figures = {"phase": self.phase.name} | self.acceptance.check(outcome.steps).figures()
        outcome.history.append(figures)
        self.unlearning.log(figures)
        return End("the step was taken")

    def take(self) -> dict[str, object]:
        """The figures of the proposal; `refused` is the reason, or None."""
        rule, state = self.phase.step, self.unlearning.state
        if rule.needs_distance and state.targets is None:
            raise ValueError(f"{self.phase.name}: a line search needs targets, and this method has none.")
        self.problem.model.eval()
        self.acceptance.tokens = self.acceptance.rows = 0
        measured = self.acceptance.measured(rule, whole=True)
        before = _Before(self.problem.snapshot(), self.acceptance.here, measured)
        proposal, unusable = Proposal(direction={}, passes={}), self._needless(measured)
        if not unusable:
            try:
                proposal = self.phase.propose(self.problem, state)
            except NumericalError as error:
                proposal, unusable = Proposal(direction={}), str(error)
        search, after = self._tried(before, self._searched(before, proposal, unusable))
        return self._noted(proposal, before, after, search)

    def _needless(self, measured: Measured) -> str:
        """Why there is nothing to propose, if so."""
        if over := self.phase.until(measured):
            self.over = True
        return over or self.phase.unless(measured) or ""

    def _tried(self, before: _Before, search: _Search) -> tuple[_Search, Measured | None]:
        """The weights moved by the step that was found, with all that is measured there, or as before."""
        after, result = None, search.result
        if isinstance(result, Found):
            after, result = self._taken(before, search, result)
        if isinstance(result, Refused):
            self.problem.restore(before.weights)
            self.acceptance.here = before.here
        return replace(search, result=result), after

    def _taken(self, before: _Before, search: _Search, found: Found) -> tuple[Measured | None, Found | Refused]:
        """The weights moved by the step that was found, by half or a quarter of it where that brings rows back
        further than the phase allows."""
        steps = [found.step * 2.0**-halvings for halvings in range(1 + HALVINGS)]
        reason = ""
        for step in steps if self.phase.most_back is not None else steps[:1]:
            self._move(before.weights, search.direction, step)
            self.acceptance.here = search.seen.get(step) or Here()
            after = self.acceptance.measured(self.phase.step, whole=True)
            if not (spoiled := self._spoiled(before)):
                return after, replace(found, step=step, measured=after)
            reason = f"after a step of {step:.3g} {spoiled}"
        return None, Refused(reason=reason, measurements=found.measurements)

    def _spoiled(self, before: _Before) -> str | None:
        """What is wrong with the forget rows at the current weights."""
        if not torch.isfinite(self.acceptance.forget()).all():
            return "the loss of forget rows is not finite"
        most = self.phase.most_back
        if most is None or (back := self.acceptance.back(before.here)) <= most:
            return None
        return f"a forget row had come back by {100 * back:.0f} % of its way"

    def _searched(self, before: _Before, proposal: Proposal, unusable: str) -> _Search:
        rule, direction = self.phase.step, self._checked(proposal.direction)
        norm, seen = _norm(direction), dict[float, Here]()
        if unusable or not (norm > 0 and math.isfinite(norm)):
            reason = unusable or ("the direction is zero" if norm == 0 else "the direction is not finite")
            return _Search(direction, norm, None, Refused(reason=reason, measurements=0), seen)

        def measure(step: float) -> Measured:
            if step == 0:
                return before.measured
            self._move(before.weights, direction, step)
            self.acceptance.here = seen[step] = Here()
            return self.acceptance.measured(rule)

        guess = rule.guess(proposal.retain_bend, SMALL * self._scale(direction) / norm, self._last())
        return _Search(direction, norm, guess, rule.find(measure, guess, proposal.forget_aim), seen)

    def _checked(self, direction: Mapping[str, Tensor]) -> dict[str, Tensor]:
        movable = self.problem.movable
        if wrong := [
            name for name, part in direction.items() if name not in movable or part.shape != movable[name].shape
        ]:
            raise ValueError(f"a direction must fit the parameters that may move; these do not: {', '.join(wrong)}")
        return {name: part.detach().to(movable[name].device) for name, part in direction.items()}

    def _scale(self, direction: Mapping[str, Tensor]) -> float:
        """Norm of the weights that move, of all movable ones where those are zero (a fresh LoRA's B), else 1."""
        movable = self.problem.movable
        return _norm({name: movable[name] for name in direction}) or _norm(movable) or 1.0

    def _last(self) -> float | None:
        """The step that a phase of this name took last."""
        own = [one["step"] for one in self.unlearning.outcome.proposals if one["phase"] == self.phase.name]
        return next((step for step in reversed(own) if step is not None), None)

    @torch.no_grad()
    def _move(self, start: Mapping[str, Tensor], direction: Mapping[str, Tensor], step: float) -> None:
        """Sets the weights to start + step * direction, computed in the wider of the two dtypes.

        From `start` each time: adding and taking back would leave rounding behind.
        """
        for name, part in direction.items():
            self.problem.movable[name].copy_(start[name] + step * part)

    def _noted(self, proposal: Proposal, before: _Before, after: Measured | None, search: _Search) -> dict[str, object]:
        ground = Ground.of(self.problem, self.unlearning.state)
        own = Passes(trained=_passing(self.phase.passes if proposal.passes is None else proposal.passes, ground))
        tokens = round(own.tokens + MEASURING * self.acceptance.tokens)
        row_passes = own.row_passes + MEASURING * self.acceptance.rows
        outcome, result, then = self.unlearning.outcome, search.result, before.measured
        step = result.step if isinstance(result, Found) else None
        outcome.tokens += tokens
        outcome.row_passes += row_passes
        outcome.steps += step is not None
        entry: dict[str, object] = {
            "phase": self.phase.name,
            "rule": {"name": type(self.phase.step).__name__} | asdict(self.phase.step),
            "step": step,
            "refused": result.reason if isinstance(result, Refused) else None,
            "guess": search.guess,
            "measurements": result.measurements,
            "tokens": tokens,
            "row_passes": row_passes,
            "direction_norm": search.norm,
            "predicted": None if step is None else _predicted(proposal, step, then),
            "measured": None if after is None else _changes(then, after),
            "forget": {"before": then.forget, "after": after.forget if after else None},
            "retain_kl": {"before": then.retain_kl, "after": after.retain_kl if after else None},
            "retain_rise": {"before": then.retain_rise, "after": after.retain_rise if after else None},
            "distance": {"before": then.distance, "after": after.distance if after else None},
            "notes": dict(proposal.notes),
        }
        outcome.proposals.append(entry)
        self.unlearning.log(entry)
        return entry


def _predicted(proposal: Proposal, step: float, before: Measured) -> dict[str, float | None]:
    """Changes that the proposal's slopes and bend, or its aim, forecast; `retain_kl` holds from the original's."""
    bend = None if proposal.retain_bend is None else step**2 * proposal.retain_bend / 2
    forget = None if proposal.forget_slope is None else step * proposal.forget_slope
    if proposal.forget_aim is not None and before.forget is not None:
        forget = step * (proposal.forget_aim - before.forget)
    known = bend is not None and proposal.retain_slope is not None
    return {
        "forget": forget,
        "retain": step * proposal.retain_slope + bend if known else None,  # type: ignore[operator]
        "retain_kl": bend,
    }


def _changes(before: Measured, after: Measured) -> dict[str, float]:
    """Changes by this proposal alone, as measured."""
    pairs = {
        "forget": (before.forget, after.forget),
        "retain": (before.retain_rise, after.retain_rise),
        "retain_kl": (before.retain_kl, after.retain_kl),
    }
    return {name: now - then for name, (then, now) in pairs.items() if then is not None and now is not None}


def _norm(tensors: Mapping[str, Tensor]) -> float:
    """The l2 norm over all, in float64."""
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors.values()))
