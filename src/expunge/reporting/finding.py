"""What a run found, as its record has it: verdict, attacks, scores, official scores, rows.

Losses are in nats per token; a number that was not finite is None. By model: "original", "unlearned" and "retrained".
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from expunge.files.typed import Part

RowVerdict = Literal["forgotten", "partly", "not forgotten", "over-forgotten", "cannot tell", "failed"]
RestVerdict = Literal["kept", "damaged", "collapsed", "cannot tell", "failed"]
Word = Literal["forgotten", "comes back", "used", "not used", "cannot tell"]
Level = Literal["quick", "full", "audit"]
Asks = Literal["forgotten", "used"]
High = Literal["known", "unknown", "moved"]
Measure = Literal["loss", "known"]
Kind = Literal["document", "answer"]
Other = Literal["retrained", "judging"]

Number = float | None
Maybe = float | UnsetType | None  # what only some entries have
Count = Annotated[int, Meta(ge=0)]
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{16}$")]
Lines = tuple[str, ...]
Ids = tuple[Hash, ...]


def known(value: Maybe) -> Number:
    """What is there: a number, or none."""
    return None if value is UNSET else value


class Interval(Part, frozen=True):
    """A mean of `count` values with its interval."""

    value: Number
    low: Number
    high: Number
    count: Count


class Comparison(Part, frozen=True):
    """The rows that the model never saw, with which rows to forget were compared."""

    source: Literal["holdout", "counterfactual"] | None
    calibrated: bool
    documents: Count
    answers: Count


class Verdict(Part, frozen=True):
    """`passes`: the rows are forgotten and the rest is kept. `forget` and `rest` in a word each, with their reasons;
    `counts`: forget rows by verdict."""

    passes: bool
    sentence: str
    forget: RowVerdict
    forget_reasons: Lines
    rest: RestVerdict
    rest_reasons: Lines
    counts: Mapping[str, Count]
    comparison: Comparison

    @property
    def reasons(self) -> Lines:
        return (*self.forget_reasons, *self.rest_reasons)


class Figure(Part, frozen=True):
    """Unlearned minus what it is compared with, with the 90 % interval; `silent` says why it tells nothing ("")."""

    figure: Measure
    verdict: Word
    silent: str
    margin: float
    difference: Interval | None


class Means(Part, frozen=True):
    """Over rows: the loss, and the share whose content is given back."""

    loss: Number
    known: Number


class Point(Part, frozen=True):
    """Where a setting lies on a curve of its attack: see `attack.Point`."""

    curve: str
    axis: str
    at: float


class Setting(Part, frozen=True):
    """An attack in one setting. `values` by set and model; `given_back`: forget rows by name."""

    setting: str
    verdict: Word
    compared_with: Other | None
    figures: tuple[Figure, ...]
    values: Mapping[str, Mapping[str, Means]]
    given_back: Lines
    point: Point | UnsetType = UNSET


class Attack(Part, frozen=True):
    """One attack and what it showed; `asks`: whether rows are forgotten, or a given fact is still used."""

    attack: str
    title: str
    question: str
    asks: Asks
    verdict: Word
    settings: tuple[Setting, ...]


class Attacks(Part, frozen=True):
    """What attacks show at this level of evidence. `rows` by set; `not_tested`: titles by name."""

    level: Level
    rows: Mapping[str, Count]
    results: tuple[Attack, ...]
    not_tested: Mapping[str, str]


class Score(Part, frozen=True):
    """A metric on a set of rows (forget, retain, ...) of a model (original, unlearned, retrained), with its interval of
    95 % and how many it is a mean of. None: not finite."""

    metric: str
    set: str
    model: str
    value: Number
    low: Number
    high: Number
    count: Count


class Card(Part, frozen=True):
    """What to know of a metric: see `metric.Card`."""

    computes: str
    least: Number
    most: Number
    original: str
    retrained: str
    fooled: str


class Metric(Part, frozen=True):
    """What a metric says of itself: see `metric.Metric`."""

    title: str
    direction: str
    high: High
    card: Card


class Official(Part, frozen=True):
    """An official score of a benchmark, or why it is missing."""

    value: Maybe = UNSET
    low: Maybe = UNSET
    high: Maybe = UNSET
    count: Count | UnsetType = UNSET
    missing: str | UnsetType = UNSET


class OfficialScores(Part, frozen=True):
    """The official scores of one model: see `benchmark.Official`."""

    parts: Mapping[str, Official]
    terms: Mapping[str, Official]
    beside: Mapping[str, Official]
    notes: Lines
    titles: Mapping[str, str] | UnsetType = UNSET


class Benchmark(Part, frozen=True):
    """Official scores by model; `flags`: what they hide, in sentences."""

    name: str
    title: str
    models: Mapping[str, OfficialScores]
    flags: Lines


class Row(Part, frozen=True):
    """A row that was to be forgotten. `name`: file and line, no path; `id`: keyed hash; `loss` and whether its content
    is `known`, by model; `rank` of its loss among those of never-seen rows, from 0 (the best known) to 1, in steps of
    `resolution`; `target`: the loss that it was to end at."""

    name: str
    id: Hash
    kind: Kind
    verdict: RowVerdict
    reason: str
    loss: Mapping[str, Number]
    target: Number
    rank: Number
    resolution: Number
    known: Mapping[str, bool | None]


class Earlier(Part, frozen=True):
    """Rows of earlier requests, judged again; their loss "first" is that of the model that first held them."""

    verdict: RowVerdict
    reasons: Lines
    counts: Mapping[str, Count]
    rows: tuple[Row, ...]
    came_back: Ids
