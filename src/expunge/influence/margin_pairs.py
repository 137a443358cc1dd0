"""Margins of rows' targets and pairs for the gradients of their weighted margins, in one pass forward and backward."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from expunge.curvature import Whitening
from expunge.influence.dual import RowPairs, row_pairs
from expunge.influence.needs import Tokens
from expunge.model.layers import linear_weights
from expunge.model.losses import margin_cotangent, margins
from expunge.problem import Problem, Split


def margin_pairs(
    problem: Problem, rows: Split, tokens: Tokens, whitening: Mapping[str, Whitening]
) -> tuple[RowPairs, Tokens]:
    """Pairs of -M_i for the rows at the current weights, and `tokens` (theirs) with margins as they are here."""
    ids = torch.tensor([t for w in rows.windows for t, counts in zip(w.ids, w.counted, strict=True) if counts])
    shares, now = tokens.shares(), torch.empty_like(tokens.margins)

    def cotangent(logits: Tensor, places: Tensor) -> Tensor:
        own = ids[places.cpu()].to(logits.device)
        now[places.cpu()] = margins(logits, own).double().cpu()
        made: Tensor = -shares[places.cpu(), None].to(logits) * margin_cotangent(logits, own)
        return made

    layers = linear_weights(problem.model, problem.movable)
    fitted = {name: one for name, one in layers.items() if name in whitening}
    pairs = row_pairs(problem, rows, fitted, whitening, cotangent)
    return pairs, replace(tokens, margins=now)
