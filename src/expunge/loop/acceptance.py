"""What a proposed step does, measured against the original on acceptance rows, which no gradient and no curvature saw.

The original's distributions on them are kept before anything moves (of requests in sequence, those of the first model:
`Problem.reference`), so a budget that several proposals share is cumulative, and the last of them stays within it too.
Retain KL and retain loss are means over counted tokens, the forget loss is a mean over rows of each row's loss per
token.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor

from expunge.data.splits import spread
from expunge.errors import InputError
from expunge.method import ACCEPTANCE, State
from expunge.optim.search import Measured
from expunge.optim.step_size import StepRule
from expunge.optim.stopping import Check
from expunge.problem import Problem, Split
from expunge.reference.cache import KeptDistributions, keep_distributions, row_losses, window_divergences

FEWEST, MOST = 12, 64  # rows, spread evenly: a search measures them some ten times


@dataclass(slots=True)
class Here:
    """What was measured at some weights: losses [forget rows]; KL and loss on acceptance rows. None: not measured."""

    forget: Tensor | None = None
    retain: tuple[float, float] | None = None


@dataclass(slots=True)
class Acceptance:
    """Measures the current weights. `split`: the acceptance rows; `start`: what the original measures.

    `here`: what is known of the current weights, for whoever moves them to keep true. `tokens` and `rows` count what
    went through the model.
    """

    problem: Problem
    state: State
    split: Split
    kept: KeptDistributions
    start: Here = field(default_factory=Here)
    here: Here = field(default_factory=Here)
    tokens: int = 0
    rows: int = 0

    @classmethod
    def at_original(cls, problem: Problem, state: State) -> "Acceptance":
        """Before anything moves. Raises `InputError` without acceptance rows."""
        pool: Mapping[str, Split] = {**problem.splits, **state.splits}
        if ACCEPTANCE not in pool:
            raise InputError(
                "this method measures the steps that it proposes on acceptance rows, a part of the retain rows, and "
                "there are none. Give more --retain rows."
            )
        problem.model.eval()
        split = chosen(pool)
        made = cls(problem, state, split, keep_distributions(problem, split))
        if problem.first is None:  # there is nothing between the original and itself
            made.here.retain = 0.0, made.kept.loss_per_token
        made.start = Here(made.forget() if state.targets is not None else None, made.retain())
        made.here = Here(made.start.forget, made.start.retain)
        return made

    def forget(self) -> Tensor:
        """Losses [forget rows] in nats per token."""
        if self.here.forget is None:
            split = self.problem.splits["forget"]
            self._count(split)
            self.here.forget = row_losses(self.problem, self.problem.model, split)
        return self.here.forget

    def retain(self) -> tuple[float, float]:
        """KL(original, current) and loss on the acceptance rows, each the mean over counted tokens, in nats."""
        if self.here.retain is None:
            self._count(self.split)
            found = window_divergences(self.problem, self.split, self.kept)
            self.here.retain = found.kl_per_token, found.loss_per_token
        return self.here.retain

    def measured(self, rule: StepRule, whole: bool = False) -> Measured:
        """What a rule looks at, of the current weights; `whole`: also what it does not."""
        kl = rise = None
        if rule.needs_retain or whole:
            kl, loss = self.retain()
            assert self.start.retain is not None
            rise = loss - self.start.retain[1]
        if not (rule.needs_distance or rule.needs_forget or whole):
            return Measured(retain_kl=kl, retain_rise=rise)
        losses = self.forget()
        mean, way = float(losses.mean()), self._way(losses)
        if not rule.needs_distance:
            return Measured(retain_kl=kl, retain_rise=rise, forget=mean, way=way)
        assert rise is not None
        gap = float((losses - self.state.targets.cpu().double()).abs().mean())
        return Measured(retain_kl=kl, retain_rise=rise, distance=gap + max(rise, 0.0), way=way, forget=mean)

    def _way(self, losses: Tensor) -> float | None:
        """How far the mean of the forget losses has gone from the original's to the mean target; None: no targets."""
        if self.start.forget is None:
            return None
        known, aim = float(self.start.forget.mean()), float(self.state.targets.cpu().double().mean())
        return (float(losses.mean()) - known) / max(aim - known, 1e-6)  # the larger one last: nan stays nan

    def back(self, before: Here) -> float:
        """How far the forget row that came back farthest did since, as a share of its way from the original to its
        target (of a nat per token, where that is more)."""
        assert before.forget is not None and self.start.forget is not None and self.state.targets is not None
        way = (self.state.targets.cpu().double() - self.start.forget).clamp(min=1.0)
        return float(((before.forget - self.forget()) / way).max())

    def check(self, step: int) -> Check:
        """What is known of the current weights, for the history; nothing is measured that is not known."""
        targets = None if self.state.targets is None else self.state.targets.cpu().double().numpy()
        losses = self.forget().numpy()
        start = losses if self.start.forget is None else self.start.forget.numpy()
        acceptance, begun = (None if one.retain is None else one.retain[1] for one in (self.here, self.start))
        return Check(step, losses, start, targets, None, None, None, None, acceptance, begun)

    def _count(self, split: Split) -> None:
        self.tokens += split.tokens
        self.rows += len(split.windows)


def chosen(pool: Mapping[str, Split]) -> Split:
    """The acceptance rows that are measured: as many as there are to forget, within bounds."""
    most = min(MOST, max(FEWEST, len(pool["forget"].rows)))
    return pool[ACCEPTANCE].of(spread(len(pool[ACCEPTANCE].rows), most), ACCEPTANCE)
