"""How far a model has gone from where a curvature was fitted: the diagonals of its factors, fitted again on a few rows.

    size = |b| / |a|,    cosine = a . b / (|a| |b|),    for the diagonals a then and b now of each factor

A diagonal costs a pass over the few rows and keeps O + I numbers a layer: that can lie beside the factors, where
factors of their own could not. Both are taken of the same rows with the same noise where those rows are given, so that
what differs is the model; else of other rows, and chance of so few is in it (`same_rows`). What a diagonal cannot see
is a turn of the factors that leaves it as it is.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

ROWS = 16  # to fit again; our choice
# Of the median factor. A small model after clean runs that forgot 1 to 8 of 68 rows: 0.993 to 0.999, size 1.00 to 1.02;
# chance of other rows alone: 0.96; after a run that spoilt what was kept (12 of 36 rows): 0.82, size 4.1. Our choice.
LEAST_COSINE, MOST_TIMES = 0.9, 2.0


@dataclass(frozen=True, slots=True)
class Drift:
    """Medians over factors, and the farthest of them; `size` of now in then's."""

    cosine: float
    least_cosine: float
    size: float
    rows: int
    same_rows: bool

    @property
    def large(self) -> bool:
        """Whether it is a curvature of another model, as good as."""
        return not self.cosine >= LEAST_COSINE or not 1 / MOST_TIMES <= self.size <= MOST_TIMES


def diagonals(factors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Of each factor by its name: copies, in float64 on the CPU."""
    return {key: tensor.diagonal().double().cpu().clone() for key, tensor in factors.items()}


def drift(then: Mapping[str, Tensor], now: Mapping[str, Tensor], rows: int, same_rows: bool) -> Drift:
    """Of the factors that both have; nothing of a factor is left where it has no gradient any more."""
    pairs = [(then[key], now.get(key, torch.zeros_like(then[key]))) for key in then]
    sizes = torch.stack([b.norm() / a.norm() for a, b in pairs])
    cosines = torch.stack([(a @ b) / (a.norm() * b.norm()).clamp_min(1e-300) for a, b in pairs])
    return Drift(float(cosines.median()), float(cosines.min()), float(sizes.median()), rows, same_rows)
