"""The dual's constraints as dense matrices in float64: a tiny problem, its fitted curvature, J and C.

Shapes: n rows, P elements of the layers' weights.
"""

from typing import Any

import torch
from torch import Tensor

from expunge.curvature import Damping, Whitening, damping_for
from expunge.curvatures.kfac import KFAC
from expunge.influence.dual import RowPairs, row_pairs
from expunge.model.layers import linear_weights
from expunge.model.losses import margin_cotangent, margins
from expunge.problem import Problem
from problems import lora_of, model_of, problem_of

SPLITS: dict[str, Any] = {"forget": (1, 2, 1, 1), "retain": (1, 1, 2)}


class Made:
    """A problem, a fitted K-FAC, weights of the forget targets, pairs, and the same as dense matrices."""

    def __init__(self, kind: str, metric: str = "kfac") -> None:
        model = lora_of(kind.removeprefix("lora ")) if kind.startswith("lora") else model_of(kind)
        self.problem: Problem = problem_of(model, SPLITS)
        self.split = self.problem.splits["forget"]
        self.layers = linear_weights(model, self.problem.movable)
        self.curvature = KFAC(labels="data")
        self.state = self.curvature.init(self.problem, self.problem.splits["retain"])
        self.damping: Damping = damping_for(self.state, 0.01, per_layer=True)
        given = self.curvature.whitening(self.problem, self.state, self.damping)
        plain = {name: Whitening(None, None, name) for name in self.layers}
        self.whitening = given if metric == "kfac" else plain
        count = sum(window.targets for window in self.split.windows)
        self.shares = torch.rand(count, generator=torch.Generator().manual_seed(3)).double()
        self.ids = torch.tensor([t for w in self.split.windows for t, c in zip(w.ids, w.counted, strict=True) if c])

    def pairs(self) -> RowPairs:
        def cotangent(logits: Tensor, places: Tensor) -> Tensor:
            return -self.shares[places, None] * margin_cotangent(logits, self.ids[places])

        return row_pairs(self.problem, self.split, self.layers, self.whitening, cotangent)

    def jacobian(self) -> Tensor:
        """J [n, P] over the layers' weights as [O, I], each window alone and unpadded."""
        rows = [
            torch.zeros(sum(one.outputs * one.inputs for one in self.layers.values())).double() for _ in self.split.rows
        ]
        place = 0
        for window in self.split.windows:
            logits = self.problem.model(input_ids=torch.tensor([window.ids]), use_cache=False).logits[0]
            before = torch.tensor([t - 1 for t, counts in enumerate(window.counted) if counts])
            ids = torch.tensor([t for t, counts in zip(window.ids, window.counted, strict=True) if counts])
            value = -(self.shares[place : place + len(ids)] * margins(logits[before], ids)).sum()
            place += len(ids)
            weights = [self.problem.movable[name] for name in self.layers]
            found = torch.autograd.grad(value, weights, allow_unused=True)
            parts = [
                torch.zeros(one.outputs * one.inputs).double() if g is None else one.matrix(g).flatten()
                for g, one in zip(found, self.layers.values(), strict=True)
            ]
            rows[window.row] = rows[window.row] + torch.cat(parts)
        return torch.stack(rows)

    def metric(self) -> Tensor:
        """C + damping [P, P], block by block."""
        blocks = []
        for name, layer in self.layers.items():
            size = layer.outputs * layer.inputs
            if self.whitening[name].outputs is None:
                blocks.append(torch.eye(size).double())
                continue
            shape = self.problem.movable[name].shape
            columns = []
            for place in range(size):
                unit = torch.zeros(size).double()
                unit[place] = 1
                vector = {name: layer.matrix(unit.view(layer.outputs, layer.inputs)).reshape(shape)}
                product = self.curvature.damped(self.problem, self.state, vector, self.damping)[name]
                columns.append(layer.matrix(product).flatten())
            blocks.append(torch.stack(columns, dim=1))
        return torch.block_diag(*blocks)

    def flat(self, direction: Any) -> Tensor:
        return torch.cat([one.matrix(direction[name]).flatten() for name, one in self.layers.items()])
