"""Takes the steps that a method proposes, or refuses them: one proposal phase at a time.

A step is searched by its rule (`optim.step_size`) with the weights set to start + step * direction and measured on the
acceptance rows, which no gradient and no curvature saw. All that is measured is against the *original*: its
distributions on the acceptance rows are kept before anything moves, so a budget that several proposals share is
cumulative, and the last of them stays within it too. Retain KL and retain loss are means over counted tokens, the
forget loss is a mean over rows of each row's loss per token.

A refused proposal leaves the weights as they were, bit for bit.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from expunge.errors import InputError, NumericalError
from expunge.loop.watch import Log, Outcome
from expunge.method import Proposal, ProposalPhase, State
from expunge.optim.step_size import Found, Measured, Refused, StepRule
from expunge.problem import Problem, Split
from expunge.reference.cache import KeptDistributions, keep_distributions, row_losses, window_divergences

ACCEPTANCE = "acceptance"
SMALL = 1e-3  # of the norm of the weights that move: the first guess where nothing is known; our choice
USUAL_MEASUREMENTS = 10  # of a search, for plans and budgets: three steps from below, five to bisect, two to spare
FORWARD_SHARE = 1 / 3  # of the work of a forward and backward pass


def expected_tokens(problem: Problem, state: State, phase: ProposalPhase) -> float:
    """About the tokens, as `Outcome` counts them, that one proposal takes."""
    measured = (1 + USUAL_MEASUREMENTS) * problem.splits[ACCEPTANCE].tokens
    looks = 2 + (USUAL_MEASUREMENTS if phase.step.needs_distance else 0)
    measured += looks * problem.splits["forget"].tokens
    return _passing(problem, state, phase) + FORWARD_SHARE * measured


@dataclass(slots=True)
class _Measurer:
    """Measures the current weights against the original; `tokens` counts what went through the model."""

    problem: Problem
    state: State
    kept: KeptDistributions
    loss: float = 0.0
    known: float = 0.0
    tokens: int = 0

    def forget(self) -> Tensor:
        """Losses [forget rows] in nats per token."""
        split = self.problem.splits["forget"]
        self.tokens += split.tokens
        return row_losses(self.problem, self.problem.model, split)

    def retain(self) -> tuple[float, float]:
        """KL(original, current) and loss on the acceptance rows, each the mean over counted tokens, in nats."""
        split = self.problem.splits[ACCEPTANCE]
        self.tokens += split.tokens
        found = window_divergences(self.problem, split, self.kept)
        return found.kl_per_token, found.loss_per_token

    def measured(self, with_distance: bool, forget: Tensor | None = None) -> Measured:
        """What a rule looks at; `forget` are the losses of the forget rows where they are known."""
        kl, loss = self.retain()
        rise = loss - self.loss
        if not with_distance:
            return Measured(retain_kl=kl, retain_rise=rise)
        losses = self.forget() if forget is None else forget
        targets = self.state.targets.cpu().double()
        gap = float((losses - targets).abs().mean())
        way = (float(losses.mean()) - self.known) / max(1e-6, float(targets.mean()) - self.known)
        return Measured(retain_kl=kl, retain_rise=rise, distance=gap + max(0.0, rise), way=way)


@dataclass(slots=True)
class _Before:
    """The weights and what they measure before a proposal."""

    weights: dict[str, Tensor]
    forget: Tensor
    measured: Measured


@dataclass(slots=True)
class _Search:
    """A direction, its norm, where the rule began, and where it ended."""

    direction: Mapping[str, Tensor]
    norm: float
    guess: float | None
    result: Found | Refused


@dataclass(slots=True)
class Proposals:
    """All proposals of one run. Made before anything moves."""

    problem: Problem
    state: State
    outcome: Outcome
    log: Log
    _measurer: _Measurer = field(init=False)

    def __post_init__(self) -> None:
        if ACCEPTANCE not in self.problem.splits:
            raise InputError(
                "this method measures the steps that it proposes on acceptance rows, a part of the retain rows, and "
                "there are none. Give more --retain rows."
            )
        self.problem.model.eval()
        self._measurer = _Measurer(
            self.problem, self.state, keep_distributions(self.problem, self.problem.splits[ACCEPTANCE])
        )
        self._measurer.loss = self._measurer.retain()[1]
        if self.state.targets is not None:
            self._measurer.known = float(self._measurer.forget().mean())

    def take(self, phase: ProposalPhase) -> dict[str, Any]:
        """Asks for a proposal, takes the step that its rule finds or restores the weights, and returns the figures.

        `refused` is the reason, or None; the figures are in `Outcome.proposals` too, and the tokens are counted.
        """
        if phase.step.needs_distance and self.state.targets is None:
            raise ValueError(f"{phase.name}: a line search needs targets, and this method has none.")
        self.problem.model.eval()
        self._measurer.tokens = 0
        before = self._before(phase.step)
        try:
            proposal = phase.propose(self.problem, self.state)
        except NumericalError as error:
            proposal, unusable = Proposal(direction={}), str(error)
        else:
            unusable = ""
        search = self._searched(phase.step, before, proposal, unusable)
        forget = None
        if isinstance(search.result, Found):
            self._move(before.weights, search.direction, search.result.step)
            forget = self._measurer.forget()
            if not torch.isfinite(forget).all():
                reason = f"after a step of {search.result.step:.3g} the loss of forget rows is not finite"
                search.result = Refused(reason=reason, measurements=search.result.measurements)
        if isinstance(search.result, Refused):
            self.problem.restore(before.weights)
        return self._noted(phase, proposal, before, forget, search)

    def _before(self, rule: StepRule) -> _Before:
        forget = self._measurer.forget()
        return _Before(self.problem.snapshot(), forget, self._measurer.measured(rule.needs_distance, forget))

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

    def _searched(self, rule: StepRule, before: _Before, proposal: Proposal, unusable: str) -> _Search:
        direction = self._checked(proposal.direction)
        norm = _norm(direction)
        if unusable or not (norm > 0 and math.isfinite(norm)):
            reason = unusable or ("the direction is zero" if norm == 0 else "the direction is not finite")
            return _Search(direction, norm, None, Refused(reason=reason, measurements=0))

        def measure(step: float) -> Measured:
            if step == 0:
                return before.measured
            self._move(before.weights, direction, step)
            return self._measurer.measured(rule.needs_distance)

        guess = rule.guess(proposal.retain_bend, SMALL * self._scale(direction) / norm)
        return _Search(direction, norm, guess, rule.find(measure, guess))

    @torch.no_grad()
    def _move(self, start: Mapping[str, Tensor], direction: Mapping[str, Tensor], step: float) -> None:
        """Sets the weights to start + step * direction, computed in the wider of the two dtypes."""
        for name, part in direction.items():
            self.problem.movable[name].copy_(start[name] + step * part)

    def _noted(
        self,
        phase: ProposalPhase,
        proposal: Proposal,
        before: _Before,
        forget: Tensor | None,
        search: _Search,
    ) -> dict[str, Any]:
        tokens = round(_passing(self.problem, self.state, phase) + FORWARD_SHARE * self._measurer.tokens)
        taken = search.result if isinstance(search.result, Found) else None
        after = taken.measured if taken else None
        self.outcome.tokens += tokens
        self.outcome.steps += taken is not None
        entry = {
            "phase": phase.name,
            "rule": {"name": type(phase.step).__name__} | asdict(phase.step),
            "step": taken.step if taken else None,
            "refused": search.result.reason if isinstance(search.result, Refused) else None,
            "guess": search.guess,
            "measurements": search.result.measurements,
            "tokens": tokens,
            "direction_norm": search.norm,
            "predicted": _predicted(proposal, taken.step) if taken else None,
            "measured": _changes(before, forget, taken.measured) if taken and forget is not None else None,
            "forget": {"before": _mean(before.forget), "after": _mean(forget)},
            "retain_kl": {"before": before.measured.retain_kl, "after": after.retain_kl if after else None},
            "retain_rise": {"before": before.measured.retain_rise, "after": after.retain_rise if after else None},
            "distance": {"before": before.measured.distance, "after": after.distance if after else None},
            "notes": dict(proposal.notes),
        }
        self.outcome.proposals.append(entry)
        self.log(entry)
        return entry


def _predicted(proposal: Proposal, step: float) -> dict[str, float | None]:
    """Changes that the proposal's slopes and bend forecast; `retain_kl` holds from the original's weights only."""
    bend = None if proposal.retain_bend is None else step**2 * proposal.retain_bend / 2
    forget = None if proposal.forget_slope is None else step * proposal.forget_slope
    known = bend is not None and proposal.retain_slope is not None
    return {
        "forget": forget,
        "retain": step * proposal.retain_slope + bend if known else None,  # type: ignore[operator]
        "retain_kl": bend,
    }


def _changes(before: _Before, forget: Tensor, after: Measured) -> dict[str, float]:
    """Changes by this proposal alone, as measured."""
    return {
        "forget": float(forget.mean() - before.forget.mean()),
        "retain": after.retain_rise - before.measured.retain_rise,
        "retain_kl": after.retain_kl - before.measured.retain_kl,
    }


def _mean(losses: Tensor | None) -> float | None:
    return None if losses is None else float(losses.mean())


def _passing(problem: Problem, state: State, phase: ProposalPhase) -> float:
    """Tokens of the passes that the proposal itself takes."""
    pool: dict[str, Split] = {**problem.splits, **state.splits}
    return sum(times * pool[name].tokens for name, times in phase.passes.items() if name in pool)


def _norm(tensors: Mapping[str, Tensor]) -> float:
    """The l2 norm over all, in float64."""
    return math.sqrt(sum(float(tensor.detach().double().square().sum()) for tensor in tensors.values()))
