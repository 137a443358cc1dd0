"""What a comparison holds, as `comparison.json` has it: methods x seeds on one problem, cell by cell, and its columns.

A column names its side, margin and group; nothing here knows a metric by name. `better` says which way is more
forgotten (side "forget") or better kept (side "retain"); None: the forget side takes the way from the original to the
retrained models, where they differ by more than the margin.
"""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import UNSET, UnsetType

from expunge.files.typed import Part
from expunge.reporting.finding import (
    Asks,
    Count,
    Figure,
    Lines,
    Means,
    Number,
    Official,
    Other,
    Point,
    RestVerdict,
    RowVerdict,
    Word,
)
from expunge.reporting.record import Check, Proposal

SCHEMA: Literal[1] = 1


class Column(Part, frozen=True, kw_only=True):
    """One score. `margin`: how far from the twins' own spread is still as good as they; None: shown, not judged.
    `range`: where its scale ends."""

    metric: str
    set: str
    label: str
    side: Literal["forget", "retain", "other"]
    group: str
    margin: Number
    relative: bool
    better: Literal["higher", "lower"] | None
    range: tuple[float, float] | None
    key: str


class Setting(Part, frozen=True):
    """As `finding.Setting`, but with the number of the rows that are given back in place of their names."""

    setting: str
    verdict: Word
    compared_with: Other | None
    figures: tuple[Figure, ...]
    values: Mapping[str, Mapping[str, Means]]
    given_back: Count
    point: Point | UnsetType = UNSET


class Attack(Part, frozen=True):
    """As `finding.Attack`."""

    attack: str
    title: str
    question: str
    asks: Asks
    verdict: Word
    settings: tuple[Setting, ...]


class Verdict(Part, frozen=True):
    """On a cell, with its reasons."""

    forget: RowVerdict
    rest: RestVerdict
    reasons: Lines


class Cell(Part, frozen=True, kw_only=True):
    """One model under one seed, or the error that it ended with. `official`: names of scores by group; `scores` and the
    `rows` behind them by column key; `sophia`: its checks; what only unlearned models have stands last."""

    model: str
    seed: int | None
    settings: str
    flags: Lines
    official: Mapping[str, Lines]
    scores: Mapping[str, Official]
    rows: Mapping[str, tuple[Number, ...]]
    proposals: tuple[Proposal, ...]
    sophia: tuple[Mapping[str, Any], ...]
    attacks: tuple[Attack, ...]
    error: str | None
    seconds: Number
    unlearn_seconds: Number
    peak_memory_bytes: Count | None
    steps: Count | None
    tokens: Count | None
    verdict: Verdict | None
    options: Mapping[str, Any] | UnsetType = UNSET
    stopped: str | UnsetType = UNSET
    history: tuple[Check, ...] | UnsetType = UNSET


class Content(Part, frozen=True, kw_only=True):
    """All of a comparison. `counts`: rows by set."""

    schema: Literal[1]
    kind: Literal["comparison"]
    created: str
    benchmark: str
    machine: str
    versions: Mapping[str, str]
    config: Mapping[str, Any]
    counts: Mapping[str, Count]
    columns: tuple[Column, ...]
    cells: tuple[Cell, ...]
