"""The likelihood attack of somebody who has the retrained models, on each cell of a comparison."""

from collections.abc import Sequence

import numpy as np

from expunge.reporting.content import Cell
from expunge.reporting.provenance import Table
from expunge.reporting.standings import RETRAINED, Standings
from expunge.reporting.words import number, plain
from expunge.scoring.intervals import Floats, Score
from expunge.scoring.likelihood import told_apart

LOSSES = "loss:forget"
TITLE = "Told from the retrained models, row by row"
HEADERS = ("Model", "Seed", "AUC (0.5: the attack guesses)", "TPR at 1 % FPR (0.01: it guesses)")


def table(found: Standings) -> Table:
    """Without lines where there are fewer than two retrained models, or losses of rows are missing."""
    cells = {model.label: model.done for model in found.models}
    twins = _stacked(cells.get(RETRAINED, ()))
    lines = []
    for cell in (cell for model in found.methods for cell in model.done):
        own = _stacked([cell])
        if twins is None or own is None or own.shape[1] != twins.shape[1]:
            continue
        if told := told_apart(own[0], twins):
            seed = "none" if cell.seed is None else plain(cell.seed)
            lines.append((cell.model, seed, _shown(told.area), _shown(told.rate)))
    return Table(TITLE, HEADERS, tuple(lines), wide=True)


def _stacked(cells: Sequence[Cell]) -> Floats | None:
    """[cells, rows]; None where there are none, or not all have the same rows."""
    rows = [cell.rows.get(LOSSES, ()) for cell in cells]
    if not rows or not rows[0] or len({len(one) for one in rows}) > 1:
        return None
    return np.array(rows, dtype=np.float64)


def _shown(score: Score) -> str:
    assert score.low is not None and score.high is not None  # of finite losses
    return f"{number(score.value)} ({number(score.low)} to {number(score.high)})"
