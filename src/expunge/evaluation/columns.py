"""Columns of a comparison: what is read off each model's evidence, with the values per row behind it.

A column's *side* says how to read it: "forget" (lower is more forgotten), "retain" (lower is lost) or "other" (to be
as the retrained model's, in either direction). `margin` is what counts as no difference, in the column's unit, or,
where it is relative, as a share of the retrained models' mean.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expunge import registry
from expunge.metric import Evidence, SetEvidence
from expunge.metrics.knowledge import known_rows
from expunge.metrics.regurgitation import recall_rows

Floats = NDArray[np.float64]
SHARE = 0.05  # of answers, of words recited, of AUC
RELATIVE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: where its score comes from (a metric of the catalogue on a set) and how it is read."""

    metric: str
    set: str
    label: str
    side: str
    group: str = "pooled"
    margin: float = SHARE
    relative: bool = False

    @property
    def key(self) -> str:
        return f"{self.metric}:{self.set}"


def _loss(name: str, label: str, relative: bool = False) -> Column:
    margin = RELATIVE if relative else SHARE
    return Column(metric="loss", set=name, label=label, side="other", group="losses", margin=margin, relative=relative)


COLUMNS = (
    Column(metric="knowledge", set="forget", label="answers known, forget", side="forget"),
    Column(metric="regurgitation", set="forget", label="recited, forget", side="forget"),
    Column(metric="loss_attack", set="forget", label="loss attack, AUC", side="forget"),
    Column(metric="knowledge", set="retain", label="answers known, retain", side="retain"),
    Column(metric="regurgitation", set="retain", label="recited, retain", side="retain"),
    Column(metric="knowledge", set="guard", label="answers known, guard", side="retain"),
    Column(metric="regurgitation", set="guard", label="recited, guard", side="retain"),
    Column(metric="knowledge", set="collateral", label="answers known, not given", side="retain"),
    Column(
        metric="perplexity", set="judging", label="perplexity, never seen", side="other", margin=RELATIVE, relative=True
    ),
    _loss("forget", "loss, forget", relative=True),
    _loss("judging", "loss, never seen", relative=True),
    _loss("retain", "loss, retain"),
    _loss("guard", "loss, guard"),
    _loss("samples", "loss, own samples"),
)
PER_ROW: dict[str, Callable[[SetEvidence], Floats]] = {
    "knowledge": known_rows,
    "regurgitation": recall_rows,
    "loss": lambda rows: rows.loss,
}


def plain(cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Columns that some cell has a score in, with margins in the column's unit."""
    found = []
    for column in COLUMNS:
        scored = [cell for cell in cells if column.key in cell["scores"]]
        twins = [cell for cell in scored if cell["model"] == "retrained"] or scored
        if scored:
            level = float(np.mean([cell["scores"][column.key]["value"] for cell in twins])) if column.relative else 1.0
            found.append(asdict(column) | {"key": column.key, "margin": column.margin * level})
    return found


def read_off(evidence: Evidence, columns: Sequence[Column] = COLUMNS) -> tuple[dict[str, Any], dict[str, list[float]]]:
    """Scores by column key, and the values of the rows behind those that are means over rows (rows in file order)."""
    scores: dict[str, Any] = {}
    rows: dict[str, list[float]] = {}
    for column in columns:
        score = None
        if column.set in evidence.sets:
            score = registry.load("metrics", column.metric)()(evidence, column.set)
        if score is None:
            continue
        scores[column.key] = {"value": score.value, "low": score.low, "high": score.high, "count": score.count}
        if column.metric in PER_ROW:
            values = PER_ROW[column.metric](evidence.sets[column.set])
            rows[column.key] = [float(value) for value in values[~np.isnan(values)]]
    return scores, rows
