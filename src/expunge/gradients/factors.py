"""The two factors of each linear layer: the mean of x x' over tokens, and the sum of g g' over tokens a target.

Shapes: T tokens, I layer input, O layer output, V vocabulary, N targets of a batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from expunge.data.batches import collate
from expunge.errors import InputError
from expunge.gradients.cotangents import Labels, exact_cotangent, mixed
from expunge.gradients.linear import Pairing, flat, pairing, rows_in_order, shared_inputs
from expunge.gradients.per_example import MOST_EXACT, Piece, cotangent, exact_steps, keys_of, row_pieces
from expunge.model.layers import Linear
from expunge.problem import Problem, Split
from expunge.runs import distributed
from expunge.runs.progress import bar

BLOCK = 512  # coordinates of a strip of a symmetric product: only those on and above the diagonal are made


@dataclass(frozen=True, slots=True)
class Factors:
    """`inputs` [I, I] by the layer that leads those with the same input, `outputs` [O, O] by layer; float32 or wider.

    `leaders`: for each layer the one whose input factor it has. `tokens` that inputs are a mean over, `targets` that
    outputs are divided by.
    """

    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]
    leaders: dict[str, str]
    tokens: int
    targets: int


def factors(
    problem: Problem,
    split: Split,
    layers: Mapping[str, Linear],
    labels: Labels,
    *,
    passes: int = 1,
    title: str = "curvature",
) -> Factors:
    """Passes over a split at the current weights, dropout off; sums over processes. `passes` repeats random labels.

    Padding is left out by length: its inputs are whatever the model makes of nothing. Raises `InputError` for layers
    that are used more than once or mix the windows of a batch, and for `exact` labels of large vocabularies.
    """
    if labels == "exact" and (vocabulary := problem.model.config.get_text_config().vocab_size) > MOST_EXACT:
        raise InputError(
            f"labels exact: a backward pass for each of {vocabulary:,} vocabulary entries at every place of a row is "
            f"for models of at most {MOST_EXACT:,}. Use labels: noise, which has the same mean."
        )
    first = min(range(len(split.windows)), key=lambda index: len(split.windows[index].ids))
    leaders = shared_inputs(problem, layers, collate(split.name, split.windows, [first]).to(problem.runtime.device))
    seeds = [mixed(problem.seed, number) for number in range(passes)]
    while (sums := _walked(problem, split, layers, leaders, labels, seeds, title)) is None:
        pass  # memory did not hold a piece, and what hooks had handed over of it cannot be taken back: all over again
    tokens, targets = split.tokens, sum(window.targets for window in split.windows)
    distributed.total_(sums.inputs)
    distributed.total_(sums.outputs)
    for part in sums.inputs.values():
        _mirror_(part).div_(tokens * passes)
    for part in sums.outputs.values():
        _mirror_(part).div_(targets * passes)
    return Factors(sums.inputs, sums.outputs, leaders, tokens, targets)


class _Sums:
    """Upper strips of the sums of x x' and g g', and whose tokens are real in the batch at hand."""

    def __init__(self, problem: Problem, layers: Mapping[str, Linear], leaders: Mapping[str, str]) -> None:
        def empty(name: str, size: int) -> Tensor:
            weight = problem.movable[name]
            return torch.zeros(size, size, dtype=torch.promote_types(weight.dtype, torch.float32), device=weight.device)

        self.leaders = leaders
        self.inputs = {name: empty(name, layers[name].inputs) for name in rows_in_order(list(layers), leaders)}
        self.outputs = {name: empty(name, one.outputs) for name, one in layers.items()}
        self.attention = torch.empty(0, dtype=torch.bool)
        self.counted: set[str] = set()  # leaders whose input of the batch at hand is in its sum

    def pair(self, name: str, came_in: Tensor, gradient: Tensor) -> None:
        _add_upper(self.outputs[name], flat(gradient, self.attention))
        if (leader := self.leaders[name]) not in self.counted:  # from whichever comes: no gradient may come to a leader
            self.counted.add(leader)
            _add_upper(self.inputs[leader], flat(came_in, self.attention))


def _walked(
    problem: Problem,
    split: Split,
    layers: Mapping[str, Linear],
    leaders: Mapping[str, str],
    labels: Labels,
    seeds: Sequence[int],
    title: str,
) -> _Sums | None:
    """The sums over this process's pieces; None where memory did not hold one, which is smaller the next time."""
    pieces = row_pieces(split, tokens=problem.portions.tokens)
    sums = _Sums(problem, layers, leaders)
    problem.model.eval()
    with pairing(problem, layers, sums.pair) as paired, bar(title, len(seeds) * len(pieces)) as report:
        for done, (seed, piece) in enumerate(product(seeds, pieces), start=1):
            if not problem.portions.fits(piece.batch, lambda _: _walk(problem, paired, sums, piece, labels, seed)):  # noqa: B023
                return None
            report(done)
    return sums


def _walk(problem: Problem, paired: Pairing, sums: _Sums, piece: Piece, labels: Labels, seed: int) -> None:
    batch = piece.batch.to(problem.runtime.device)
    sums.attention, sums.counted = batch.attention, set()
    keys = keys_of(piece.batch)
    if labels != "exact":
        paired.run(batch, lambda logits: cotangent(logits, batch, labels, seed, keys))
        return
    for chosen, entry in exact_steps(problem, piece):
        paired.run(batch, lambda logits: exact_cotangent(logits, chosen, entry))  # noqa: B023


def _add_upper(total: Tensor, values: Tensor) -> None:
    """Adds the strips of values' values [D, D] on and above the diagonal: little more than half of the product."""
    size = len(total)
    for begin in range(0, size, BLOCK):
        end = min(begin + BLOCK, size)
        total[begin:end, begin:].addmm_(values[:, begin:end].T, values[:, begin:])


def _mirror_(upper: Tensor) -> Tensor:
    """Makes the symmetric matrix, of which the upper strips are given, in place: all factors are there at once."""
    upper.triu_()
    return upper.add_(upper.triu(1).T)
