"""A linear probe on hidden states: can forget rows be told from never-seen ones inside the model?

    x = mean hidden state, of the middle layer, where a row's targets are predicted;  s = w.x by ridge regression of
    +1 (forget) and -1 (never seen), fitted on four fifths of the rows and read on the last fifth, five times over

A model may say nothing and still hold the rows (Patil et al. 2024, 2309.17410).
`known` of a forget row is the share of never-seen rows with a lower score, so its mean is the area under the ROC curve;
of a never-seen row it is the share of forget rows with a lower or equal score, so that half is what telling nothing is.

Departures: not tried on models whose states are not read between two layers. Rows themselves may differ between the
sets, which a probe sees too; a retrained model shows how much. Features are scaled to variance 1 on the rows that are
fitted, and the ridge is the number of features.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from expunge.attack import Asks, Level, Planned, Reading, Subject
from expunge.data.batches import Batch
from expunge.data.passes import Passes, measuring, total
from expunge.errors import InputError
from expunge.model.layers import stack
from expunge.model.states import hidden_states
from expunge.problem import Problem, Split
from expunge.runs import distributed
from expunge.scoring.intervals import Floats

FOLDS = 5
FEWEST = 10  # rows of either set


def scores(features: Floats, labels: Floats) -> Floats:
    """[n] of features [n, D] and labels +1 and -1, each row read by a probe that was fitted without its fold."""
    folds = np.empty(len(labels), dtype=int)
    for label in (-1, 1):  # every fold has its share of both
        places = np.flatnonzero(labels == label)
        folds[places] = np.arange(len(places)) % FOLDS
    found = np.empty(len(labels))
    for fold in range(FOLDS):
        own = folds != fold
        middle, width = features[own].mean(axis=0), features[own].std(axis=0) + 1e-9
        scaled = (features - middle) / width
        kernel = scaled[own] @ scaled[own].T  # the dual of ridge regression, since there are more features than rows
        targets = labels[own] - labels[own].mean()
        weights = np.linalg.solve(kernel + features.shape[1] * np.eye(int(own.sum())), targets)
        found[~own] = scaled[~own] @ (scaled[own].T @ weights)
    return found


def placed(mine: Floats, others: Floats) -> Floats:
    """[n]: share of the others below each of mine; ties count half."""
    below: Floats = (others < mine[:, None]).mean(axis=1) + 0.5 * (others == mine[:, None]).mean(axis=1)
    return below


@torch.no_grad()
def hidden(problem: Problem, split: Split) -> Floats:
    """[rows, D]: mean hidden state of the middle layer over the places that predict a row's targets."""
    sums: dict[str, torch.Tensor] = {}

    layer = (len(stack(problem.model).layers) - 1) // 2

    def look(batch: Batch) -> None:
        middle = hidden_states(problem.model, batch, layer)[:, :-1].double()
        weights = batch.counted[:, 1:].double()
        both = torch.cat([(middle * weights[:, :, None]).sum(dim=1), weights.sum(dim=1, keepdim=True)], dim=1).cpu()
        total = sums.setdefault("states", torch.zeros(len(split.rows), both.shape[1], dtype=torch.float64))
        total.index_add_(0, batch.rows.cpu(), both)

    with problem.runtime.autocast():
        problem.over(split, look)
    distributed.total_(sums)
    return np.asarray((sums["states"][:, :-1] / sums["states"][:, -1:]).numpy())


@dataclass(frozen=True, slots=True)
class Probe:
    """Ridge regression on the middle layer, cross-validated in five folds."""

    title: ClassVar[str] = "a probe of hidden states"
    question: ClassVar[str] = "Can somebody tell the rows from others by what goes on inside the model?"
    level: ClassVar[Level] = "audit"
    asks: ClassVar[Asks] = "forgotten"
    beside_original: ClassVar[bool] = True
    twin_only: ClassVar[bool] = True
    needs_weights: ClassVar[bool] = True
    margin: ClassVar[float] = 0.2

    def run(self, subject: Subject) -> Iterator[Reading]:
        judged = subject.judged
        if len(judged) < 2 or min(map(len, judged.values())) < FEWEST:
            return
        try:
            features = [hidden(subject.problem, judged[name]) for name in ("forget", "judging")]
        except InputError:  # a model of one layer, or whose layers do not run in turn
            return
        labels = np.repeat([1.0, -1.0], [len(one) for one in features])
        forget, judging = np.split(scores(np.concatenate(features), labels), [len(features[0])])
        known = {"forget": placed(forget, judging), "judging": placed(judging, forget)}
        seen = {name: subject.unseen(split) for name, split in judged.items()}
        yield Reading(
            "forget against never-seen rows",
            {name: one.at(range(len(known[name])), one.loss, known[name]) for name, one in seen.items()},
        )

    def cost(self, planned: Planned) -> Passes:
        return total(Passes(plain=measuring(split.windows)) for split in planned.judged.values())
