"""Columns of a comparison: what is read off each model's evidence, with the values per row behind it.

A column's *side* says how to read it: "forget" (lower is more forgotten), "retain" (lower is lost) or "other" (to be
as the retrained model's, in either direction). `margin` is what counts as no difference, in the column's unit, or,
where it is relative, as a share of the retrained models' mean.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from msgspec import UNSET
from numpy.typing import NDArray

from expunge import registry
from expunge.benchmark import Official
from expunge.evaluation.official import outcome
from expunge.reporting import content, finding
from expunge.reporting.content import Cell
from expunge.scoring.band import Side
from expunge.scoring.evidence import Evidence, SetEvidence
from expunge.scoring.matching import known_rows, recall_rows

Floats = NDArray[np.float64]
Way = Literal["higher", "lower"]
SHARE = 0.05  # of answers, of words recited, of AUC
RELATIVE = 0.1
BITS = 0.5  # of exposure: a rank that is off by a factor of 1.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: where its score comes from (a metric of the catalogue on a set) and how it is read."""

    metric: str
    set: str
    label: str
    side: Side
    group: str = "pooled"
    margin: float = SHARE
    relative: bool = False
    better: Way | None = None
    range: tuple[float, float] | None = (0.0, 1.0)

    @property
    def key(self) -> str:
        return f"{self.metric}:{self.set}" if self.set else self.label


def _level(metric: str, name: str, label: str, margin: float = RELATIVE, group: str = "pooled") -> Column:
    """Without bounds; the margin is relative unless it is that of a share."""
    relative = margin == RELATIVE
    return Column(
        metric=metric, set=name, label=label, side="other", group=group, margin=margin, relative=relative, range=None
    )


COLUMNS = (
    Column(metric="knowledge", set="forget", label="answers known, forget", side="forget"),
    Column(metric="regurgitation", set="forget", label="recited, forget", side="forget"),
    Column(metric="loss_attack", set="forget", label="loss attack, AUC", side="forget"),
    Column(metric="knowledge", set="retain", label="answers known, retain", side="retain", better="higher"),
    Column(metric="regurgitation", set="retain", label="recited, retain", side="retain", better="higher"),
    Column(metric="knowledge", set="guard", label="answers known, guard", side="retain", better="higher"),
    Column(metric="regurgitation", set="guard", label="recited, guard", side="retain", better="higher"),
    Column(metric="knowledge", set="collateral", label="answers known, not given", side="retain", better="higher"),
    Column(
        metric="perplexity",
        set="judging",
        label="perplexity, never seen",
        side="other",
        margin=RELATIVE,
        relative=True,
        range=None,
    ),
    _level("loss", "forget", "loss, forget", group="losses"),
    _level("loss", "judging", "loss, never seen", group="losses"),
    _level("loss", "retain", "loss, retain", SHARE, "losses"),
    _level("loss", "guard", "loss, guard", SHARE, "losses"),
    _level("loss", "collateral", "loss, not given", SHARE, "losses"),
    _level("retain_kl", "retain", "retain KL, retain", SHARE, "losses"),
    _level("retain_kl", "guard", "retain KL, guard", SHARE, "losses"),
    _level("retain_kl", "collateral", "retain KL, not given", SHARE, "losses"),
    _level("loss", "samples", "loss, own samples", SHARE, "losses"),
)
PER_ROW: dict[str, Callable[[SetEvidence], Floats]] = {
    "knowledge": known_rows,
    "regurgitation": recall_rows,
    "loss": lambda rows: rows.loss,
}


def shown(cells: Sequence[Cell]) -> tuple[content.Column, ...]:
    """Columns that some cell has a score in, with margins in the column's unit."""
    groups = next((cell.official for cell in cells if cell.official), {})
    officials = [_official(name, group) for group, names in groups.items() for name in names]
    found = []
    for column in (*COLUMNS, *officials):
        scored = [cell for cell in cells if column.key in cell.scores]
        measured = [cell for cell in scored if cell.scores[column.key].missing is UNSET]
        twins = [cell for cell in measured if cell.model == "retrained"] or measured
        levels = [_value(cell.scores[column.key]) for cell in twins] if column.relative else [1.0]
        if scored:
            level = float(np.mean(levels)) if levels else float("nan")
            beyond = any(not 0 <= _value(cell.scores[column.key]) <= 1 for cell in measured)  # a percentage, say
            given = asdict(column) | {"key": column.key, "margin": column.margin * level}
            found.append(content.Column(**given | ({"range": None} if beyond else {})))
    return tuple(found)


def _value(score: finding.Official) -> float:
    """nan: not finite."""
    value = finding.known(score.value)
    return float("nan") if value is None else value


def _official(name: str, group: str) -> Column:
    forgets = name.startswith("1 - ")
    side: Side = "forget" if "(forget" in name or name.startswith("AUC") else "retain" if "(retain" in name else "other"
    ways: dict[Side, Way] = {"forget": "higher" if forgets else "lower", "retain": "higher"}
    better = ways.get(side)
    if "exposure (" in name:
        return Column(
            metric="official", set="", label=name, side=side, group=group, better=better, margin=BITS, range=None
        )
    return Column(metric="official", set="", label=name, side=side, group=group, better=better)


def read_official(official: Official) -> tuple[dict[str, tuple[str, ...]], dict[str, finding.Official]]:
    """Names by group, and scores by name, of a benchmark's official scores."""
    groups = {"official": official.parts, "term": official.terms, "beside": official.beside}
    scores = {name: outcome(found) for part in groups.values() for name, found in part.items()}
    return {group: tuple(part) for group, part in groups.items()}, scores


def read_off(evidence: Evidence) -> tuple[dict[str, finding.Official], dict[str, tuple[float, ...]]]:
    """Scores by column key, and the values of the rows behind those that are means over rows (rows in file order)."""
    scores: dict[str, finding.Official] = {}
    rows: dict[str, tuple[float, ...]] = {}
    for column in COLUMNS:
        score = None
        if column.set in evidence.sets:
            score = registry.load("metrics", column.metric)()(evidence, column.set)
        if score is None:
            continue
        scores[column.key] = outcome(score)
        if column.metric in PER_ROW:
            values = PER_ROW[column.metric](evidence.sets[column.set])
            rows[column.key] = tuple(float(value) for value in values[~np.isnan(values)])
    return scores, rows
