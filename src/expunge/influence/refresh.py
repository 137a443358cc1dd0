"""Sophia inside the loop: when its curvature is estimated and on which rows, and what share of its step is unclipped.

An estimate is taken before steps 1, k + 1, 2 k + 1, ... at the weights that the step starts from, as in Algorithm 3 of
2305.14342. The share is measured midway, after step k // 2 + 1 of every k, so that it says how gamma fits batches that
did not set it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from expunge.curvature import shuffled
from expunge.data.batches import Batch, Stream
from expunge.errors import NumericalError
from expunge.gradients.bartlett import estimate
from expunge.optim.sophia import Sophia, SophiaSettings
from expunge.problem import Problem, Split

OWN_SEED = 7919  # added to the phase's seed, so that refreshes draw neither the rows nor the noise of anything else
Note = Callable[[Mapping[str, Any]], None]


class CurvatureRefresh:
    """Sophia and its estimates over one run of steps, called by the loop before and after each.

    `note` receives {"step", "unclipped", "gamma"} at each check; `tokens` counts what refreshes sent through the model.
    """

    def __init__(
        self, problem: Problem, settings: SophiaSettings, pool: Mapping[str, Split], seed: int, note: Note
    ) -> None:
        self.problem, self.settings, self.note, self.tokens = problem, settings, note, 0
        self.optimiser = Sophia(problem.movable.values(), settings, seed=seed)
        split = rows_of(settings, pool)
        self._stream = None if split is None else Stream(split.name, split.windows, seed + OWN_SEED)
        self._generator = torch.Generator(device=problem.runtime.device).manual_seed(seed + OWN_SEED)
        self._strayed = False

    def before(self, step: int, batches: Sequence[Batch]) -> None:
        """Ahead of 0-based `step`, whose batches these are."""
        if not _due(self.settings, step):
            return
        if self._stream is not None:
            batches = self._stream.draw(self.settings.refresh_rows, self.settings.refresh_most)
        found = estimate(self.problem, batches, self._generator, self.settings.estimator)
        if not all(bool(part.isfinite().all()) for part in found.diagonal):
            raise NumericalError(f"step {step + 1}: the estimate of the curvature is not finite.")
        self.tokens += found.tokens
        self.optimiser.refresh(_controlled(found.diagonal, self.settings.control), regauge=self._strayed)

    def after(self, step: int) -> None:
        """Following 0-based `step`."""
        if step % self.settings.refresh_every != self.settings.refresh_every // 2:
            return
        share, (low, high) = self.optimiser.unclipped_share(), self.settings.unclipped_range
        self._strayed = not low <= share <= high
        self.note({"step": step + 1, "unclipped": share, "gamma": self.optimiser.gamma})

    def held(self) -> dict[str, Any]:
        """What it needs to go on, but for the optimiser."""
        return {"tokens": self.tokens, "strayed": self._strayed, "random": self._generator.get_state()}

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Puts back what `held` returned, once the optimiser is as it was."""
        self.tokens, self._strayed = kept["tokens"], kept["strayed"]
        self._generator.set_state(kept["random"])
        if self._stream is not None:
            self._stream.skip(self.settings.refresh_rows, self.optimiser.param_groups[0]["refreshes"])


def begin(
    problem: Problem,
    settings: SophiaSettings | None,
    pool: Mapping[str, Split],
    seed: int,
    notes: dict[str, Any],
    place: Mapping[str, Any],
) -> CurvatureRefresh | None:
    """For a run of steps whose phase asks for Sophia; none: AdamW. Checks go to `notes["sophia"]`, with their place."""
    if settings is None:
        return None
    checks: list[dict[str, Any]] = notes.setdefault("sophia", [])
    return CurvatureRefresh(problem, settings, pool, seed, lambda figures: checks.append({**place, **figures}))


def _controlled(diagonal: list[Tensor], control: str) -> list[Tensor]:
    """The estimate itself, or what an ablation puts in its place: the same numbers elsewhere, or one for all."""
    if control == "identity":
        return [torch.ones_like(part) for part in diagonal]
    if control == "shuffled":
        return [shuffled(part, place) for place, part in enumerate(diagonal)]
    return diagonal


def _due(settings: SophiaSettings, step: int) -> bool:
    return settings.variant == "sophia" and step % settings.refresh_every == 0


def rows_of(settings: SophiaSettings, pool: Mapping[str, Split]) -> Split | None:
    """The split whose rows the curvature is taken on; none: the batches of the step itself."""
    if settings.variant != "sophia" or settings.curvature_on == "batch":
        return None
    return pool.get("curvature") or pool.get("retain")


def refresh_tokens(settings: SophiaSettings | None, pool: Mapping[str, Split], step_tokens: float) -> float:
    """Tokens a step, on average, that refreshes send through the model; `step_tokens` are those of the step itself."""
    if settings is None or settings.variant != "sophia":
        return 0.0
    split = rows_of(settings, pool)
    if split is None:
        return step_tokens / settings.refresh_every
    rows = min(settings.refresh_rows, len(split.windows))
    return rows * float(np.mean([len(window.ids) for window in split.windows])) / settings.refresh_every
