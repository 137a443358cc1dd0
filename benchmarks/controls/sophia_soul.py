"""SOUL's Sophia as released: libu's second phase by their rule.

Jia et al., *SOUL* (2404.18239; OPTML-Group/SOUL, src/optim/sophia.py): every step m is updated *twice* with the same
gradient, h <- b2 h + (1 - b2) g∘g with the *training* gradient, and c(m / (rho * 5120 * h + 1e-15)): the batch constant
stays at its default whatever the batch is. No estimates, no refresh.

Departures: no weight decay, where their TOFU runs have 0.1, so that the rule alone differs from `sophia_diagonal`.

When to use it: only to compare with.
"""

from dataclasses import asdict, dataclass, replace
from typing import Annotated

from torch import Tensor

from expunge.config.bounds import AtLeast, Count, Positive
from expunge.influence.refresh import WithSophia
from expunge.method import Descend, Method, Needs, Phase, State
from expunge.methods.libu import LIBU
from expunge.optim.sophia import Averages, Ratio, Rule, SophiaSettings
from expunge.problem import Problem

BATCH = 5120
SETTINGS = SophiaSettings(gamma=0.04, betas=(0.9, 0.95), eps=1e-15)  # gamma is their rho


def _observe(averages: Averages, gradient: Tensor, settings: SophiaSettings, draw: float) -> None:
    decay, slow = settings.betas
    for _ in range(2):
        averages["momentum"].lerp_(gradient, 1 - decay)
    averages["curvature"].lerp_(gradient * gradient, 1 - slow)


def _ratio(averages: Averages, gamma: float, steps: int, settings: SophiaSettings) -> Ratio:
    return Ratio(averages["momentum"], gamma * BATCH * averages["curvature"] + settings.eps)


RULE = Rule(_observe, _ratio)


@dataclass(frozen=True, slots=True, kw_only=True)
class SophiaSOUL(Method):
    """Options of sophia_soul: those of libu's second phase."""

    learning_rate: Positive | None = None
    """Peak learning rate; none: the probe looks for it."""
    steps: Count | None = None
    """Most steps; none: as loss_matching."""
    forget_rows: Count = 24
    """Forget rows a step (as loss_matching)."""
    replay_texts: Annotated[int, AtLeast(0)] = 512
    """Texts to sample from the original; 0 for none (as loss_matching)."""
    replay_tokens: Count = 128
    """Longest replay text, in tokens (as loss_matching)."""

    @property
    def needs(self) -> Needs:
        return LIBU(**asdict(self)).needs

    def init(self, problem: Problem) -> State:
        return LIBU(**asdict(self)).init(problem)

    def phases(self, problem: Problem, state: State) -> tuple[Phase, ...]:
        second = LIBU(**asdict(self)).phases(problem, state)[-1]
        assert isinstance(second, Descend)
        return (replace(second, optimiser=WithSophia(settings=SETTINGS, rule=RULE, estimate=None)),)
