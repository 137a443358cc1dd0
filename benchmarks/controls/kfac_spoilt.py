"""Spoilt K-FAC: the factors of `kfac` with part of what they know taken out, the spectrum's mean left as it is.

    even:      C_l = s_l I (x) A_l,          s_l the mean diagonal of S_l: every output gradient counts alike
    shuffled:  C_l = P S_l P' (x) Q A_l Q',  P and Q permutations that the seed decides

So a relative damping means the same as for `kfac`. It is no matrix of the model, so it forecasts nothing.

When to use it: as the control of `kfac`, by path.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from expunge.curvature import Curvature, CurvatureState, Damping, Passing, Solution, Vector, Whitening
from expunge.curvatures.kfac import KFAC, OUTPUTS
from expunge.problem import Problem, Split


@dataclass(frozen=True, slots=True, kw_only=True)
class KFACSpoilt(Curvature):
    """Options of kfac_spoilt."""

    how: Literal["even", "shuffled"] = "shuffled"
    """Which part is taken out: even, what outputs know; shuffled, which direction has which curvature."""

    @property
    def has_factors(self) -> bool:
        return True

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        state = KFAC().init(problem, split)
        if self.how == "even":
            tensors = {name: evened(part) if name.endswith(OUTPUTS) else part for name, part in state.tensors.items()}
        else:
            seeds = {name: problem.seed + number for number, name in enumerate(sorted(state.tensors))}
            tensors = {name: reordered(part, seeds[name]) for name, part in state.tensors.items()}
        return replace(state, tensors=tensors)

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        return KFAC().matvec(problem, state, vector)

    def damped(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> dict[str, Tensor]:
        return KFAC().damped(problem, state, vector, damping)

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        return KFAC().solve(problem, state, vector, damping)

    def whitening(
        self, problem: Problem, state: CurvatureState, damping: Damping, release: bool = False
    ) -> Mapping[str, Whitening]:
        return KFAC().whitening(problem, state, damping, release)

    def cost(self, rows: int) -> Passing:
        return KFAC().cost(rows)

    def bytes(self, shapes: Mapping[str, torch.Size]) -> int:
        return 2 * KFAC().bytes(shapes)  # both are there for a moment

    def whitened_bytes(self, shapes: Mapping[str, torch.Size], shared: Mapping[str, str]) -> int:
        return KFAC().whitened_bytes(shapes, shared)


def evened(factor: Tensor) -> Tensor:
    """The unit matrix with the factor's mean diagonal."""
    return torch.eye(len(factor), dtype=factor.dtype, device=factor.device) * factor.diagonal().mean()


def reordered(factor: Tensor, seed: int) -> Tensor:
    """The same symmetric matrix with its coordinates in another order, which the seed alone decides."""
    order = torch.randperm(len(factor), generator=torch.Generator().manual_seed(seed)).to(factor.device)
    return factor[order][:, order]
