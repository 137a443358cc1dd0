"""What a proposed step does, measured against the original on acceptance rows, which no gradient and no curvature saw.

The original's distributions on them are kept before anything moves, so a budget that several proposals share is
cumulative, and the last of them stays within it too. Retain KL and retain loss are means over counted tokens, the
forget loss is a mean over rows of each row's loss per token.
"""

from dataclasses import dataclass

from torch import Tensor

from expunge.errors import InputError
from expunge.method import State
from expunge.optim.step_size import Measured
from expunge.problem import Problem
from expunge.reference.cache import KeptDistributions, keep_distributions, row_losses, window_divergences

ACCEPTANCE = "acceptance"


@dataclass(slots=True)
class Acceptance:
    """Measures the current weights. `loss` and `known`: the original's mean losses of acceptance rows and of forget
    rows (0 where no targets are known); `tokens` counts what went through the model."""

    problem: Problem
    state: State
    kept: KeptDistributions
    loss: float = 0.0
    known: float = 0.0
    tokens: int = 0

    @classmethod
    def at_original(cls, problem: Problem, state: State) -> "Acceptance":
        """Before anything moves. Raises `InputError` without acceptance rows."""
        if ACCEPTANCE not in problem.splits:
            raise InputError(
                "this method measures the steps that it proposes on acceptance rows, a part of the retain rows, and "
                "there are none. Give more --retain rows."
            )
        problem.model.eval()
        made = cls(problem, state, keep_distributions(problem, problem.splits[ACCEPTANCE]))
        made.loss = made.retain()[1]
        if state.targets is not None:
            made.known = float(made.forget().mean())
        return made

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
