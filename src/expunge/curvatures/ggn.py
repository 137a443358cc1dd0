"""GGN: the generalised Gauss-Newton matrix itself, by products with vectors; solves by conjugate gradients.

    C v = (1 / tokens) sum_t J_t' H_t J_t v,    H_t = diag(p_t) - p_t p_t',  p_t = softmax(z_t)

z_t are the logits of target t, J_t = dz_t / dtheta (Schraudolph 2002; Martens 2010). It is the Fisher in expectation
over labels that the model itself would draw (Martens, 1412.1193), and the Hessian where the logits are linear in the
weights; nothing is sampled, nothing is approximated, and nothing is stored but the weights at which it was taken. J v
comes from two backward passes (differentiating u' J v by the dummy u), so a product costs about three training passes.

(C + damping) x = v is solved by conjugate gradients (Hestenes and Stiefel 1952) to a relative residual of `tolerance`,
or as far as `iterations` go; then the status says *not converged*, and x is still a descent direction, since each step
of conjugate gradients lowers the quadratic model. Mean and median of its diagonal, for the relative damping, are
estimated as `gradients.estimates` does (unbiased, from noise).

Departures: none from the matrix. Attention runs on PyTorch's plain kernels, since the fused ones have no second
derivative.

When to use it: as the measure of what the others leave out, and on few rows.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from expunge.config.bounds import Between, Count
from expunge.curvature import Curvature, CurvatureState, Damping, Passing, Solution, Status, Vector, inner, spectrum
from expunge.data.batches import Batch, by_length, collate
from expunge.data.splits import spread
from expunge.gradients.estimates import estimate
from expunge.model.losses import target_logits
from expunge.problem import Problem, Split
from expunge.runs import distributed

VECTORS = 6  # of conjugate gradients at a time, and the weights
TOGETHER = 8  # windows of a batch: two graphs of it live at a time
PRODUCT = 3  # training passes that one product costs
BATCH = "batch"  # begins the names of the rows' tensors; names of parameters hold no space
PACKED = ("ids", "attention", "counted", "rows", "windows")


@dataclass(frozen=True, slots=True, kw_only=True)
class GGN(Curvature):
    """Options of the ggn curvature."""

    rows: Count = 64
    """Rows it is a mean over, spread over those given (our choice)."""
    iterations: Count = 50
    """Most products of a solve (our choice)."""
    tolerance: Annotated[float, Between(0, 1)] = 1e-3
    """Relative residual at which a solve ends (our choice)."""

    @property
    def forecasts(self) -> bool:
        return True

    def init(self, problem: Problem, split: Split) -> CurvatureState:
        rows = split.of(spread(len(split.rows), self.rows), split.name)
        batches = [
            collate(rows.name, rows.windows, group)
            for group in by_length(rows.windows, range(len(rows.windows)), TOGETHER)
        ]
        generator = torch.Generator(device=problem.runtime.device).manual_seed(problem.seed)
        # Window by window: a batch is cut where memory is short, and the damping must not hang on that.
        singly = [collate(rows.name, rows.windows, [index]) for index in range(len(rows.windows))]
        found = estimate(problem, singly, generator)
        diagonal = spectrum(dict(zip(problem.movable, found.diagonal, strict=True)))
        weights = {name: problem.movable[name].detach().clone() for name in diagonal.means}
        tensors = weights | {
            f"{BATCH} {place} {name}": part
            for place, batch in enumerate(batches)
            for name, part in _packed(batch).items()
        }
        return CurvatureState(tensors, diagonal.mean, diagonal.median, diagonal.means, len(rows.rows), found.targets)

    def matvec(self, problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
        chosen = {name: part for name, part in vector.items() if name in state.means}
        with _weights_of(problem, state), sdpa_kernel(SDPBackend.MATH):
            return _product(problem, state, chosen)

    def solve(self, problem: Problem, state: CurvatureState, vector: Vector, damping: Damping) -> Solution:
        chosen = {
            name: part.to(torch.promote_types(part.dtype, torch.float32))
            for name, part in vector.items()
            if name in state.means
        }
        with _weights_of(problem, state), sdpa_kernel(SDPBackend.MATH):

            def damped(direction: Vector) -> dict[str, Tensor]:
                product = _product(problem, state, direction)
                return {name: part + damping.of(name) * direction[name] for name, part in product.items()}

            return conjugate_gradients(damped, chosen, self.tolerance, self.iterations)

    def cost(self, rows: int) -> Passing:
        share = min(1.0, self.rows / max(1, rows))
        return Passing(fit=share, product=PRODUCT * share, solve=PRODUCT * share * self.iterations)

    def bytes(self, shapes: Mapping[str, torch.Size]) -> int:
        return 4 * VECTORS * sum(shape.numel() for shape in shapes.values())


def conjugate_gradients(
    multiply: Callable[[Vector], dict[str, Tensor]], right: Vector, tolerance: float, iterations: int
) -> Solution:
    """x with A x = right, A symmetric and positive definite and known by its products.

    Ends at a residual |A x - right| of `tolerance` |right|. Inner products are summed in float64.
    """
    solution = {name: torch.zeros_like(part) for name, part in right.items()}
    rest = {name: part.clone() for name, part in right.items()}
    direction = {name: part.clone() for name, part in right.items()}
    squared = whole = inner(rest, rest)
    for step in range(iterations):
        if squared <= tolerance**2 * whole:
            return Solution(solution, "solved", _relative(squared, whole), step)
        product = multiply(direction)
        bend = inner(direction, product)
        if not (math.isfinite(bend) and bend > 0):
            return Solution(solution, "broke down", _relative(squared, whole), step)
        length = squared / bend
        for name in rest:
            solution[name] += length * direction[name]
            rest[name] -= length * product[name]
        before, squared = squared, inner(rest, rest)
        direction = {name: part + (squared / before) * direction[name] for name, part in rest.items()}
    status: Status = "solved" if squared <= tolerance**2 * whole else "not converged"
    return Solution(solution, status, _relative(squared, whole), iterations)


def _relative(squared: float, whole: float) -> float:
    return math.sqrt(squared / whole) if whole else 0.0


def _product(problem: Problem, state: CurvatureState, vector: Vector) -> dict[str, Tensor]:
    """C v of the parameters that v has, all of them alive, at the current weights."""
    sums = {name: torch.zeros_like(part) for name, part in vector.items()}

    def add(part: Batch) -> None:
        for name, value in _of_batch(problem, part, vector).items():
            sums[name] += value

    for batch in distributed.share(_batches(state)):
        problem.portions.each(batch, lambda part: add(part.to(problem.runtime.device)))
    distributed.total_(sums)
    return {name: value / state.tokens for name, value in sums.items()}


def _of_batch(problem: Problem, batch: Batch, vector: Vector) -> dict[str, Tensor]:
    """sum_t J_t' H_t J_t v over the batch's targets, in the precision of the weights: no autocast."""
    names = list(vector)
    moved = [problem.movable[name] for name in names]
    logits = target_logits(problem.model, batch)
    dummy = torch.zeros_like(logits, requires_grad=True)
    # J' u is linear in u, so the derivative of v' J' u by u is J v, whatever u is
    pulled = torch.autograd.grad(logits, moved, dummy, create_graph=True, allow_unused=True)
    along = sum((part * vector[name]).sum() for name, part in zip(names, pulled, strict=True) if part is not None)
    if not isinstance(along, Tensor):
        return {}
    pushed = torch.autograd.grad(along, dummy)[0]
    p = logits.detach().softmax(dim=1)
    bent = p * (pushed - (p * pushed).sum(dim=1, keepdim=True))
    back = torch.autograd.grad(logits, moved, bent, allow_unused=True)
    return {name: part for name, part in zip(names, back, strict=True) if part is not None}


@contextmanager
def _weights_of(problem: Problem, state: CurvatureState) -> Iterator[None]:
    """The weights at which the curvature was taken, for as long as this lasts."""
    here = problem.snapshot()
    with torch.no_grad():
        for name in state.means:
            problem.movable[name].copy_(state.tensors[name])
    try:
        yield
    finally:
        problem.restore(here)


def _packed(batch: Batch) -> dict[str, Tensor]:
    return {name: getattr(batch, name) for name in PACKED}


def _batches(state: CurvatureState) -> list[Batch]:
    """The rows that the state was taken on, which it holds with the weights: so it can be kept and used elsewhere."""
    found: list[Batch] = []
    while f"{BATCH} {len(found)} ids" in state.tensors:
        place = f"{BATCH} {len(found)}"
        ids, attention, counted, rows, windows = (state.tensors[f"{place} {name}"] for name in PACKED)
        found.append(Batch("curvature", ids, attention, counted, rows, windows))
    return found
