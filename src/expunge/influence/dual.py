"""The smallest step that moves each row's weighted margin by what it needs, in the metric of a two-factor curvature.

With J_i the gradient of minus row i's weighted margin and C = S (x) A, layer by layer,

    K = J C^-1 J',    (K + mu) a = delta,    step = C^-1 J' a

is the step of least step' C step with J step = delta (for mu = 0): n unknowns for n rows, whatever the number of
weights. With W_S' W_S = (S + d_S)^-1 and W_A' W_A = (A + d_A)^-1, a row's gradient in a layer is the sum over its
tokens of g x', and whitened that of (W_S g)(W_A x)'. So everything is made of whitened pairs of tokens: the weight
gradient is never made, and of a row no more is kept than what came in and out at its tokens. A gradient G of anything
else, such as the retain KL, meets them as W_S G W_A', and the step along C^-1 G is W_S' (W_S G W_A') W_A.

Shapes: n rows, T tokens of all rows, I and O inputs and outputs of a layer, N targets.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from expunge.curvature import Whitening
from expunge.data.batches import by_length, collate
from expunge.errors import InputError
from expunge.gradients.linear import flat, pairing
from expunge.model.layers import Linear
from expunge.problem import Problem, Split
from expunge.runs import memory

TOGETHER = 16  # windows of a batch
MOST_PRODUCTS = 2**26  # elements of rows' gradients that are made at once


@dataclass(frozen=True)
class RowPairs:
    """Whitened inputs [T, I] by the layer that leads those with the same, and output gradients [T, O] by layer.

    `rows` [T] says whose each token is, in ascending order; `count` n. Tensors on the problem's device.
    """

    layers: Mapping[str, Linear]
    whitening: Mapping[str, Whitening]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    rows: Tensor
    count: int

    def joined(self, other: "RowPairs") -> "RowPairs":
        """These rows, then those of the other, of the same layers; each as it was taken, wherever the weights stood."""
        assert self.layers.keys() == other.layers.keys()
        inputs = {name: torch.cat([x, other.inputs[name]]) for name, x in self.inputs.items()}
        outputs = {name: torch.cat([g, other.outputs[name]]) for name, g in self.outputs.items()}
        rows = torch.cat([self.rows, other.rows + self.count])
        return RowPairs(self.layers, self.whitening, inputs, outputs, rows, self.count + other.count)

    @cached_property
    def gram(self) -> Tensor:
        """K [n, n] = J C^-1 J', summed over layers; float64 on the CPU. Made once: several steps share pairs."""
        total = torch.zeros(self.count, self.count, dtype=torch.float64, device=self.rows.device)
        for x, g in self._pairs():
            total += self._by_tokens(x, g) if self._tokens_are_cheaper(x, g) else self._by_products(x, g)
        return total.cpu()

    def whitened(self, gradient: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """W_S G W_A' [O, I] of a gradient G, in the layers that it has."""
        found = {}
        for name in self.layers:
            if name in gradient:
                own = self.whitening[name]
                found[name] = own.to_outputs(own.to_inputs(self.layers[name].matrix(gradient[name])).T).T
        return found

    def along(self, white: Mapping[str, Tensor]) -> Tensor:
        """J d [n] for d = C^-1 G, G being given as `whitened`: how fast each row's minus weighted margin changes."""
        found = torch.zeros(len(self.rows), dtype=torch.float64, device=self.rows.device)
        for name, part in white.items():
            x, g = self._of(name)
            found += ((x @ part.T) * g).sum(dim=1, dtype=torch.float64)
        return torch.zeros(self.count, dtype=torch.float64).index_add(0, self.rows.cpu(), found.cpu())

    def combined(self, weights: Tensor) -> dict[str, Tensor]:
        """C^-1 J' a for `weights` a [n], in the shapes of the parameters."""
        return {name: self.step(name, self.summed(name, weights)) for name in self.layers}

    def summed(self, name: str, weights: Tensor) -> Tensor:
        """Whitened J' a [O, I] of a layer."""
        x, g = self._of(name)
        return (g * weights.to(self.rows.device)[self.rows][:, None].to(g.dtype)).T @ x

    def step(self, name: str, white: Tensor) -> Tensor:
        """C^-1 G of a layer in its parameter's shape, G being given as `whitened` [O, I]."""
        own = self.whitening[name]
        return self.layers[name].matrix(own.from_inputs(own.from_outputs(white.T).T)).contiguous()

    def _of(self, name: str) -> tuple[Tensor, Tensor]:
        return self.inputs[self.whitening[name].leader], self.outputs[name]

    def _pairs(self) -> list[tuple[Tensor, Tensor]]:
        return [self._of(name) for name in self.layers]

    def _tokens_are_cheaper(self, x: Tensor, g: Tensor) -> bool:
        """Products of all pairs of tokens, or gradients of rows and their products: which takes fewer operations."""
        tokens, inputs, outputs = len(x), x.shape[1], g.shape[1]
        return tokens * (inputs + outputs) < inputs * outputs * (1 + self.count**2 / tokens)

    def _by_tokens(self, x: Tensor, g: Tensor) -> Tensor:
        """sum over pairs of tokens of both rows of (x . x')(g . g')."""
        found = torch.zeros(self.count, self.count, dtype=torch.float64, device=x.device)
        most = max(1, MOST_PRODUCTS // len(x))
        for begin in range(0, len(x), most):
            here = slice(begin, begin + most)
            products = (x[here] @ x.T) * (g[here] @ g.T)
            by_row = torch.zeros(len(products), self.count, dtype=products.dtype, device=x.device)
            by_row.index_add_(1, self.rows, products)
            found.index_add_(0, self.rows[here], by_row.double())
        return found

    def _by_products(self, x: Tensor, g: Tensor) -> Tensor:
        """P P' for the rows' gradients P [n, O * I], strips of outputs at a time."""
        found = torch.zeros(self.count, self.count, dtype=torch.float64, device=x.device)
        sizes = torch.bincount(self.rows, minlength=self.count).tolist()
        strip = max(1, MOST_PRODUCTS // (self.count * x.shape[1]))
        for begin in range(0, g.shape[1], strip):
            parts = zip(x.split(sizes), g[:, begin : begin + strip].split(sizes), strict=True)
            products = torch.stack([(own_g.T @ own_x).flatten() for own_x, own_g in parts])
            found += (products @ products.T).double()
        return found


def bytes_by_token(shapes: Mapping[str, torch.Size], shared: Mapping[str, str]) -> int:
    """Of a token's pairs in matrices of these shapes, in float32; `shared`: names for each the first with the same
    input, which is kept once."""
    matrices = {name: shape for name, shape in shapes.items() if len(shape) == 2}
    inputs = {shared.get(name, name): columns for name, (_, columns) in matrices.items()}
    return 4 * (sum(rows for rows, _ in matrices.values()) + sum(inputs.values()))


def products(problem: Problem, held: int, made: bool, back: bool, shapes: Mapping[str, torch.Size]) -> float:
    """FLOPs of the products beside the passes, of a problem's forget rows and so many held ones, in matrices of these
    shapes.

    `made`: pairs are whitened and their Gram matrix made (else they are at hand); `back`: of a restoration, whose
    gradient is whitened and met with all pairs, in place of a removal.
    """
    forget = problem.splits.get("forget")
    if forget is None or not len(forget):
        return 0.0
    rows, found = len(forget) + held, 0.0
    tokens = forget.tokens * rows / len(forget)
    for size in (shape for shape in shapes.values() if len(shape) == 2):
        whole = size[0] * size[1]
        solve, pair = whole * sum(size), 2 * tokens * whole  # triangular factors on both sides; all pairs with a matrix
        gram = min(2 * tokens**2 * sum(size), pair + 2 * rows**2 * whole)
        found += (tokens * (size[0] ** 2 + size[1] ** 2) + gram if made else 0.0) + (1 + back) * (solve + pair)
    return float(found)


def covariant(direction: Tensor, whitening: Whitening) -> Tensor:
    """A direction [O, I] as it meets whitened pairs: W_S^-T D W_A^-1, so that <P, D> = <P~, D~>; its squared norm is
    that of D in the metric."""
    assert whitening.triangular
    if whitening.outputs is not None:
        direction = torch.linalg.solve_triangular(whitening.outputs.T.to(direction), direction, upper=True)
    if whitening.inputs is not None:
        direction = torch.linalg.solve_triangular(whitening.inputs.to(direction), direction, upper=False, left=False)
    return direction


def row_pairs(
    problem: Problem,
    split: Split,
    layers: Mapping[str, Linear],
    whitening: Mapping[str, Whitening],
    cotangent: Callable[[Tensor, Tensor], Tensor],
) -> RowPairs:
    """Pairs of all tokens of a split's rows at the current weights, dropout off.

    `cotangent(logits [N', V], places [N'])`: what is back-propagated from the targets of a batch; `places` are theirs
    among all N targets of the split, in the order of its windows. Every process makes all of them: a request is small,
    and its rows must meet. Raises `InputError` where memory does not hold them.
    """
    device = problem.runtime.device
    lengths = torch.tensor([len(window.ids) for window in split.windows])
    begins = torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])
    targets = torch.tensor([window.targets for window in split.windows])
    firsts = torch.cat([torch.zeros(1, dtype=torch.long), targets.cumsum(0)])
    leaders = {whitening[name].leader for name in layers}
    _check_room(int(lengths.sum()), layers, whitening, device)

    def collected() -> RowPairs | None:
        """None where memory did not hold a batch, which is smaller the next time."""
        inputs: dict[str, Tensor] = {}
        outputs: dict[str, Tensor] = {}
        at: dict[str, Tensor] = {}

        def keep(into: dict[str, Tensor], name: str, values: Tensor) -> None:
            if name not in into:
                into[name] = values.new_empty(int(lengths.sum()), values.shape[1])
            into[name][at["tokens"]] = values

        def pair(name: str, came_in: Tensor, gradient: Tensor) -> None:
            own = whitening[name]
            keep(outputs, name, own.to_outputs(flat(gradient, at["attention"])))
            if own.leader == name:
                keep(inputs, name, own.to_inputs(flat(came_in, at["attention"])))

        chosen = range(len(split.windows))
        batches = [collate(split.name, split.windows, group) for group in by_length(split.windows, chosen, TOGETHER)]
        with pairing(problem, layers, pair) as paired:
            for part in [part for batch in batches for part in batch.parts(problem.portions.tokens)]:
                moved = part.to(device)
                own = part.windows.tolist()
                at["attention"] = moved.attention
                at["tokens"] = _joined(begins, lengths, own).to(device)
                places = _joined(firsts, targets, own).to(device)
                if not problem.portions.fits(
                    part,
                    lambda _: paired.run(moved, lambda logits: cotangent(logits, places)),  # noqa: B023
                ):
                    return None
        assert set(inputs) == leaders and set(outputs) == set(layers)
        rows = torch.tensor([window.row for window in split.windows]).repeat_interleave(lengths)
        return RowPairs(layers, whitening, inputs, outputs, rows.to(device), len(split.rows))

    problem.model.eval()
    while (found := collected()) is None:
        pass
    return found


def _check_room(
    tokens: int, layers: Mapping[str, Linear], whitening: Mapping[str, Whitening], device: torch.device
) -> None:
    shapes = {name: torch.Size((one.outputs, one.inputs)) for name, one in layers.items()}
    shared = {name: whitening[name].leader for name in layers}
    need, free = tokens * bytes_by_token(shapes, shared), memory.free(device)
    if need > free:
        raise InputError(
            f"the {tokens:,} tokens of the forget rows and of those beside them need {need / 2**30:.1f} GiB in "
            f"{len(layers)} linear layers, and {free / 2**30:.1f} GiB are free. Move fewer layers (--options.layers "
            "down), forget fewer rows at a time, or cut rows into shorter windows (--context)."
        )


def _joined(begins: Tensor, lengths: Tensor, windows: list[int]) -> Tensor:
    """Places of all that belongs to some windows, window after window."""
    return torch.cat([torch.arange(int(begins[w]), int(begins[w] + lengths[w])) for w in windows])


@dataclass(frozen=True, slots=True)
class Dual:
    """a [n] with (K + mu) a = delta, mu, and the largest relative miss of a delta by K a."""

    weights: Tensor
    damping: float
    missed: float


def solved(gram: Tensor, deltas: Tensor, relative: float) -> Dual:
    """The dual's solution, mu being `relative` to the mean of K's diagonal. All float64.

    `missed`: max |K a - delta| / max |delta|: rows that want opposite things of the same weights cannot both have them.
    """
    damping = relative * float(gram.diagonal().mean())
    eye = torch.eye(len(gram), dtype=gram.dtype)
    weights = torch.linalg.solve(gram + damping * eye, deltas)
    largest = float(deltas.abs().max())
    missed = float((gram @ weights - deltas).abs().max()) / largest if largest else 0.0
    return Dual(weights, damping, missed)


@dataclass(frozen=True, slots=True)
class Restoration:
    """A direction in the shapes of the parameters, <gradient, direction>, and what is left of the whole in it: the
    ratio of their norms in the metric."""

    direction: dict[str, Tensor]
    slope: float
    left: float


def restoration(pairs: RowPairs, gradient: Mapping[str, Tensor], relative: float) -> Restoration:
    """-(d - C^-1 J' (K + mu)^-1 J d) for d = C^-1 gradient: what of the way down leaves every row's margin where it is,
    to first order."""
    white = pairs.whitened(gradient)
    weights = solved(pairs.gram, pairs.along(white), relative).weights
    direction, whole, left, slope = {}, 0.0, 0.0, 0.0
    for name, part in white.items():
        tame = part - pairs.summed(name, weights)
        whole, left = whole + float(part.double().square().sum()), left + float(tame.double().square().sum())
        slope -= float((part.double() * tame.double()).sum())
        direction[name] = -pairs.step(name, tame)
    return Restoration(direction, slope, (left / whole) ** 0.5 if whole else 0.0)
