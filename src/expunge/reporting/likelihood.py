"""The likelihood attack of somebody who has the retrained models, on each cell of a comparison."""

from collections.abc import Iterator, Sequence

import numpy as np

from expunge.reporting.content import Cell
from expunge.reporting.standings import RETRAINED, Model, Standings
from expunge.scoring.intervals import Floats
from expunge.scoring.likelihood import Told, told_apart

LOSSES = "loss:forget"
TITLE = "Told from the retrained models, row by row"
HEADERS = ("Model", "Seed", "AUC (0.5: the attack guesses)", "TPR at 1 % FPR (0.01: it guesses)")


def told(found: Standings) -> Iterator[tuple[Model, Cell, Told]]:
    """Nothing where there are fewer than two retrained models, or losses of rows are missing."""
    twins = next((_stacked(model.done) for model in found.models if model.label == RETRAINED), None)
    for method, cell in ((one, cell) for one in found.methods for cell in one.done):
        own = _stacked([cell])
        if twins is None or own is None or own.shape[1] != twins.shape[1]:
            continue
        if result := told_apart(own[0], twins):
            yield method, cell, result


def _stacked(cells: Sequence[Cell]) -> Floats | None:
    """[cells, rows]; None where there are none, or not all have the same rows."""
    rows = [cell.rows.get(LOSSES, ()) for cell in cells]
    if not rows or not rows[0] or len({len(one) for one in rows}) > 1:
        return None
    return np.array(rows, dtype=np.float64)
