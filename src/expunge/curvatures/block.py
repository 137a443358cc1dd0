"""Block: per-example gradients' outer products within blocks of coordinates, inverted exactly.

    C_b = (1 / tokens) sum_i g_i g_i',    g_i the part of example i's gradient that lies in block b

Blocks are `block` coordinates in a row of each flattened parameter, as Optimal BERT Surgeon (2203.07259) cuts them, or
one block of all coordinates. With G [m, K] the scaled gradients of a block, C_b = G' G, and any power p is exact from
the m x m eigenproblem G G' = U diag(s) U' (where a block has fewer coordinates than there are gradients, from the K x K
eigenproblem):

    (lambda I + G' G)^p v = lambda^p v + G' U diag(((s + lambda)^p - lambda^p) / s) U' G v

For p = -1 this is what the WoodFisher recursion gives one gradient at a time (Singh & Alistarh, 2004.14340, equation
4), which Second-Order Information Matters (2403.10557) takes over; the tests hold the two together.

Which matrix it is depends on `labels`: Gauss-Newton in expectation for `noise` and `sampled`, the *empirical* Fisher
(the papers') for `data`. Rank at most m. Memory: m numbers for every movable parameter, so it is for LoRA or for chosen
layers.

Shapes: b blocks, m gradients, K coordinates of a block (the last one of a parameter is filled up with zeros).

Departures: `noise` labels where the papers have `data`; summed losses divided once by their tokens, where they take the
mean of m losses; the Gram form in place of the recursion.

When to use it: on few parameters, where coordinates that move together should be seen together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from expunge.config.bounds import Count
from expunge.curvature import STATE_SHARE, Curvature, CurvatureState, Damping, Passing, Solution, Vector, spectrum
from expunge.data.splits import spread
from expunge.errors import InputError
from expunge.gradients.cotangents import Labels
from expunge.gradients.per_example import Stacked, measure
from expunge.problem import Problem, Split
from expunge.runs import memory

ALL = "all parameters"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block(Curvature):
    """Options of the block curvature."""

    labels: Labels = "noise"
    """Label source: noise, sampled, data (the papers' empirical Fisher) or exact (tiny models); our choice."""
    block: Count | None = 64
    """Coordinates of a block; none: one block of all (Optimal BERT Surgeon uses 50; ours is our choice)."""
    gradients: Count = 256
    """Per-example gradients to use, of rows spread over those given, repeated with fresh noise (our choice)."""

    @property
    def forecasts(self) -> bool:
        return self.labels != "data"

    @property
    def has_powers(self) -> bool:
        return True

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        need = self.bytes({name: tensor.shape for name, tensor in problem.movable.items()})
        free = memory.free(problem.runtime.device)
        if need > STATE_SHARE * free:
            parameters = sum(tensor.numel() for tensor in problem.movable.values())
            raise InputError(
                f"curvature block: {self.gradients} gradients of {parameters:,} parameters need about "
                f"{need / 2**30:.1f} GiB of {free / 2**30:.1f}. Give fewer gradients, or --subspace lora."
            )
        rows = split.of(spread(len(split.rows), self.gradients), split.name)
        repeats = 1 if self.labels == "data" else max(1, self.gradients // len(rows.rows))
        sums = measure(problem, rows, Stacked, self.labels, passes=repeats, title="curvature")
        # G' G must be the mean per token, so each of its m factors carries the root of one over the tokens.
        scale = (sums.tokens * repeats) ** -0.5
        stacked = {name: scale * gradients.flatten(1) for name, gradients in sums.tensors.items()}
        found = spectrum({name: part.square().sum(dim=0) for name, part in stacked.items()})
        stacked = {name: part for name, part in stacked.items() if name in found.means}
        if self.block is None and stacked:
            tensors = {ALL: torch.cat([stacked[name] for name in sorted(stacked)], dim=1)[None]}
        else:
            tensors = {name: cut(part, self.block or 1) for name, part in stacked.items()}
        notes = {"gradients": _count(tensors)}
        return CurvatureState(tensors, found.mean, found.median, found.means, sums.examples, sums.tokens, notes)

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        products = {}
        for key, gradients in state.tensors.items():
            blocks = self._blocks(state, vector, key)
            # G' (G v): the K x K matrix of a block is never made
            products[key] = torch.einsum("bmk,bm->bk", gradients, torch.einsum("bmk,bk->bm", gradients, blocks))
        return self._joined(state, vector, products)

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        return Solution(self.power(problem, state, vector, -1.0, damping))

    def power(
        self, problem: Problem, state: CurvatureState, vector: Vector, exponent: float, damping: Damping
    ) -> dict[str, Tensor]:
        if ALL in state.tensors and damping.by_parameter:
            raise InputError("curvature block: one block of all coordinates has one damping. Give block a size.")
        raised = {}
        for key, gradients in state.tensors.items():
            if key not in state.factors:
                state.factors[key] = factor(gradients)
            blocks = self._blocks(state, vector, key)
            raised[key] = apply_power(state.factors[key], gradients, blocks, exponent, damping.of(key))
        return self._joined(state, vector, raised)

    def cost(self, rows: int) -> Passing:
        return Passing(fit=self.gradients / max(1, rows) if rows else 1.0)

    def bytes(self, shapes: Mapping[str, torch.Size]) -> int:
        """Four bytes twice: gradients are stacked by row, then cut into blocks, the last of which is filled up."""
        sizes = [shape.numel() for shape in shapes.values()]
        filled = sum(size + -size % (self.block or 1) for size in sizes)
        return 4 * self.gradients * (sum(sizes) + filled)

    def _blocks(self, state: CurvatureState, vector: Vector, key: str) -> Tensor:
        """The vector's part [b, K] for one entry of the state."""
        if key == ALL:
            return torch.cat([vector[name].flatten() for name in sorted(state.alive)])[None]
        return cut(vector[key].flatten()[None], state.tensors[key].shape[2])[:, 0]

    def _joined(self, state: CurvatureState, vector: Vector, blocks: dict[str, Tensor]) -> dict[str, Tensor]:
        """Blocks [b, K] back in the shapes of the vector."""
        if ALL not in blocks:
            return {
                name: blocks[name].flatten()[: tensor.numel()].view_as(tensor)
                for name, tensor in vector.items()
                if name in blocks
            }
        names = sorted(state.alive)
        parts = blocks[ALL][0].split([vector[name].numel() for name in names])
        return {name: part.view_as(vector[name]) for name, part in zip(names, parts, strict=True)}


def cut(flat: Tensor, size: int) -> Tensor:
    """[m, P] into blocks [b, m, K] of `size` coordinates, the last filled up with zeros."""
    padded = torch.nn.functional.pad(flat, (0, -flat.shape[1] % size))
    blocks: Tensor = padded.unflatten(1, (-1, size))
    return blocks.transpose(0, 1).contiguous()


def factor(gradients: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and eigenvectors of the smaller of G G' [b, m, m] and G' G [b, K, K], in float64."""
    wide = gradients.double()
    small = wide @ wide.transpose(1, 2) if gradients.shape[1] < gradients.shape[2] else wide.transpose(1, 2) @ wide
    values, vectors = torch.linalg.eigh(small)
    return values.clamp(min=0).to(gradients.dtype), vectors.to(gradients.dtype)


def apply_power(
    factors: tuple[Tensor, Tensor], gradients: Tensor, vector: Tensor, exponent: float, damping: float
) -> Tensor:
    """(damping I + G' G)^exponent v [b, K] for v [b, K], from `factor(gradients)`."""
    values, vectors = factors
    if gradients.shape[1] >= gradients.shape[2]:
        along = torch.einsum("bkj,bk->bj", vectors, vector)
        return torch.einsum("bkj,bj->bk", vectors, (values + damping) ** exponent * along)
    along = torch.einsum("bmj,bm->bj", vectors, torch.einsum("bmk,bk->bm", gradients, vector))
    base = damping**exponent
    ratio = torch.expm1(exponent * torch.log1p(values / damping)) / values.clamp(min=torch.finfo(values.dtype).tiny)
    ratio = torch.where(values > 0, ratio, torch.full_like(values, exponent / damping))
    back = torch.einsum("bmk,bm->bk", gradients, torch.einsum("bmj,bj->bm", vectors, ratio * along))
    return torch.as_tensor(base * (vector + back))


def _count(tensors: dict[str, Tensor]) -> int:
    return next((part.shape[1] for part in tensors.values()), 0)
