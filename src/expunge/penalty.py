"""A curvature as a penalty on a loss phase: elastic weight consolidation.

Adds weight * d' C d / 2 to whatever the phase minimises, d the distance of the movable weights from the original's, C a
curvature of the catalogue fitted at the original on retain rows, on unseen text, or on both (Kirkpatrick et al.
1612.00796, equation 3, there with a diagonal empirical Fisher and a fixed weight). Departures: Gauss-Newton labels by
default; the weight is not given but set by a retain budget: whenever the run looks at its rows, it is doubled while the
retain KL on acceptance rows, which neither gradient nor curvature saw, is beyond the budget, and halved while it is
below half of it. The penalty's gradient, weight * C d, is added to the loss's; nothing is propagated for it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor

from expunge.curvature import Curvature, CurvatureState, inner
from expunge.errors import InputError
from expunge.influence import curvature_of
from expunge.problem import Problem, Split
from expunge.reference.cache import KeptDistributions, keep_distributions, window_divergences

PARTS = {"retain": 2, "curvature": 1, "acceptance": 1}  # of the retain rows, for methods that say nothing themselves
CHANGE = 2.0
MOST_CHANGES = 20  # the weight stays within 2^20 of where it starts, either way
On = Literal["retain", "unseen", "both"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PenaltySettings:
    """What `--penalty` and its companions say."""

    curvature: str
    on: On = "retain"
    budget: float = 0.05
    options: Any = None


@dataclass(slots=True)
class Penalty:
    """Fitted before anything moves. `weight` multiplies the curvature, which is in nats per token."""

    problem: Problem
    settings: PenaltySettings
    weight: float = 1.0
    history: list[dict[str, float]] = field(default_factory=list)
    _curvature: Curvature = field(init=False)
    _state: CurvatureState = field(init=False)
    _anchor: dict[str, Tensor] = field(init=False)
    _kept: KeptDistributions = field(init=False)

    def __post_init__(self) -> None:
        splits = self.problem.splits
        if "acceptance" not in splits:
            raise InputError("--penalty measures its budget on a part of the retain rows. Give --retain rows.")
        if self.settings.on != "retain" and "unseen" not in splits:
            raise InputError(
                f"--penalty-on {self.settings.on}: there is no unseen text. Give --holdout, or use retain."
            )
        self._curvature = curvature_of(self.settings.curvature, self.settings.options)
        self._state = self._curvature.init(self.problem, _rows(splits, self.settings.on))
        self._anchor = self.problem.snapshot()
        self._kept = keep_distributions(self.problem, splits["acceptance"])

    def add(self) -> float:
        """Adds its gradient to the parameters' and returns weight * d' C d / 2."""
        distance = {name: tensor.detach() - self._anchor[name] for name, tensor in self.problem.movable.items()}
        alive = {name: part for name, part in distance.items() if name in self._state.alive}
        pull = self._curvature.matvec(self._state, alive)
        for name, part in pull.items():
            tensor = self.problem.movable[name]
            scaled = (self.weight * part).to(tensor.dtype)
            tensor.grad = scaled if tensor.grad is None else tensor.grad + scaled
        return self.weight * inner(alive, pull) / 2

    def look(self, step: int) -> None:
        """Measures the retain KL and sets the weight for what follows."""
        split = self.problem.splits["acceptance"]
        kl = window_divergences(self.problem, split, self._kept).kl_per_token
        self.history.append({"step": step, "retain_kl": kl, "weight": self.weight})
        if not kl <= self.settings.budget:
            self.weight = min(self.weight * CHANGE, CHANGE**MOST_CHANGES)
        elif kl < self.settings.budget / 2:
            self.weight = max(self.weight / CHANGE, CHANGE**-MOST_CHANGES)

    def held(self) -> dict[str, Any]:
        """What looks have changed."""
        return {"weight": self.weight, "history": self.history}

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Puts back what `held` returned."""
        self.weight, self.history = kept["weight"], kept["history"]

    def figures(self) -> dict[str, Any]:
        """For the record."""
        return {
            "curvature": self.settings.curvature,
            "on": self.settings.on,
            "budget": self.settings.budget,
            "mean_curvature": self._state.mean,
            "examples": self._state.examples,
            "tokens": self._state.tokens,
            "weights": self.history,
        }


def _rows(splits: Mapping[str, Split], on: On) -> Split:
    """The rows that the curvature is fitted on; of both, the unseen rows follow the retain rows."""
    if on != "both":
        return splits["curvature" if on == "retain" else "unseen"]
    return splits["curvature"].joined(splits["unseen"])
