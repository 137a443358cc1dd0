"""Which training rows the knowledge of a row depends on: influence on margins, through a two-factor curvature.

With J_i the gradient of row i's mean margin and C = S (x) A, layer by layer,

    share(q, z) = J_q C^-1 J_z' / (J_z C^-1 J_z' + mu)

is by how much row q's mean margin falls, to first order, where row z's is brought down by one with the smallest step in
the metric of C: the step by which `margin_newton` removes one row. 1: q goes as z goes (z itself, but for mu); 0: they
have nothing to do with one another; below 0: q would be known better.

Koh and Liang (1703.04730) and Grosse et al. (2308.03296) take gradients of losses. Those vanish on what is memorised,
so that every influence is next to none; margins keep their slope. Nor is the change divided by the number of rows: it
is asked what goes with z, not by how much less z weighs. Shares of several rows do not add up: two that say the same
have a high share each, and removing one alone would leave q known.

Shapes: q rows that are asked about, n training rows.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from expunge.curvature import Whitening
from expunge.influence.dual import RowPairs
from expunge.influence.margin_pairs import margin_pairs
from expunge.influence.needs import Tokens
from expunge.problem import Problem, Split
from expunge.runs.progress import bar

TOGETHER = 64  # training rows whose pairs are kept at a time
DAMPING = 0.01  # mu, relative to the mean of all J_z C^-1 J_z', as in the dual


def shares(problem: Problem, asked: Split, train: Split, whitening: Mapping[str, Whitening]) -> Tensor:
    """[q, n] at the current weights; float64 on the CPU. One pass forward and backward over all rows."""
    own = _pairs(problem, asked, whitening)
    count, places = len(asked.rows), range(len(train.rows))
    products, lengths = [], []
    with bar("influence", len(train.rows)) as report:
        for begin in range(0, len(train.rows), TOGETHER):
            part = train.of(places[begin : begin + TOGETHER], "train")
            gram = own.joined(_pairs(problem, part, whitening)).gram
            products.append(gram[:count, count:])
            lengths.append(gram.diagonal()[count:])
            report(begin + len(part.rows))
    squares = torch.cat(lengths)
    return torch.cat(products, dim=1) / (squares + DAMPING * squares.mean())


def _pairs(problem: Problem, rows: Split, whitening: Mapping[str, Whitening]) -> RowPairs:
    """Pairs of minus each row's mean margin."""
    owners = torch.tensor([window.row for window in rows.windows for _ in range(window.targets)])
    plain = torch.ones(len(owners), dtype=torch.float64)
    return margin_pairs(problem, rows, Tokens(owners, torch.zeros_like(plain), plain, len(rows.rows)), whitening)[0]
