"""Which training rows the knowledge of a row depends on: influence functions through a two-factor curvature.

With M_q the mean margin of a row's targets (log p - log(1 - p)), L_z the loss of a training row summed over its
targets, N the targets of all training rows and C the curvature of the mean loss per target,

    influence(q, z) = - grad M_q' C^-1 grad L_z / N

is by how much, to first order, the margins of q fall where z is left out of the training (Koh and Liang, 1703.04730,
equation 2, through K-FAC as Grosse et al., 2308.03296). Above 0: the model knows q partly from z.

Departure: they ask about the loss of q, whose gradient vanishes on what is memorised; its margin keeps its slope. The
gradient of L_z vanishes too where z is memorised: the numbers are then small and their order still tells. What it costs
to be first order: of two rows that say the same, either is said to be of use, and leaving one out would change nothing.

Shapes: q rows that are asked about, n training rows.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from expunge.curvature import Whitening
from expunge.influence.dual import RowPairs, row_pairs
from expunge.model.layers import linear_weights
from expunge.model.losses import margin_cotangent
from expunge.problem import Problem, Split
from expunge.runs.progress import bar

TOGETHER = 64  # training rows whose pairs are kept at a time
Cotangent = Callable[
    [Tensor, Tensor, Tensor], Tensor
]  # of logits [N, V], ids [N] and the targets [N] of each one's row


def influences(problem: Problem, asked: Split, train: Split, whitening: Mapping[str, Whitening]) -> Tensor:
    """[q, n] at the current weights, in margin; float64 on the CPU. One pass forward and backward over all rows."""
    own = _pairs(problem, asked, whitening, falling_margin)
    count, products = len(asked.rows), []
    with bar("influence", len(train.rows)) as report:
        for begin in range(0, len(train.rows), TOGETHER):
            part = train.of(range(len(train.rows))[begin : begin + TOGETHER], "train")
            both = own.joined(_pairs(problem, part, whitening, summed_loss))
            products.append(both.gram[:count, count:])
            report(begin + len(part.rows))
    return torch.cat(products, dim=1) / sum(window.targets for window in train.windows)


def falling_margin(logits: Tensor, ids: Tensor, targets: Tensor) -> Tensor:
    """Of minus the mean margin of a row."""
    return -margin_cotangent(logits, ids) / targets[:, None]


def summed_loss(logits: Tensor, ids: Tensor, targets: Tensor) -> Tensor:
    """Of the loss of a row, summed over its targets."""
    return logits.softmax(dim=1) - one_hot(ids, logits.shape[1])


def _pairs(problem: Problem, rows: Split, whitening: Mapping[str, Whitening], cotangent: Cotangent) -> RowPairs:
    """Whitened pairs of the gradients of one figure of each row."""
    ids = torch.tensor([t for w in rows.windows for t, counts in zip(w.ids, w.counted, strict=True) if counts])
    owners = torch.tensor([window.row for window in rows.windows for _ in range(window.targets)])
    targets = torch.bincount(owners, minlength=len(rows.rows))[owners]

    def of_batch(logits: Tensor, places: Tensor) -> Tensor:
        chosen = places.cpu()
        return cotangent(logits, ids[chosen].to(logits.device), targets[chosen].to(logits))

    layers = linear_weights(problem.model, problem.movable)
    return row_pairs(
        problem, rows, {name: one for name, one in layers.items() if name in whitening}, whitening, of_batch
    )
