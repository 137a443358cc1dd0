"""Contract: what a benchmark is: how its files become rows, how rows are generated from, and its official scores.

A benchmark scores one model's evidence (no torch). What could not be measured is `Missing` with its reason, never 0.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from scipy.stats import norm

from expunge.data.rows import MakeRow, Row
from expunge.data.secrets import Alternatives
from expunge.errors import InputError
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import CONFIDENCE, RESAMPLES, Draws, Floats, Score


@dataclass(frozen=True, slots=True)
class Missing:
    """Stands where a score would, and says why there is none."""

    reason: str


Scored = Score | Missing
Found = Mapping[str, Draws | Missing]
Numbers = TypeVar("Numbers", float, Floats)


@dataclass(frozen=True, slots=True, kw_only=True)
class Generating:
    """How rows are generated from.

    `rows`: at most so many of a set, spread evenly; None: all. `kinds`: of these kinds of rows only; None: of all.
    `tokens`: at most so many new ones, whatever the row (as far as the context goes); None: a few more than the
    reference has. `clean_up`: spaces before punctuation and contractions are taken out of the text. `candidates`:
    other texts in place of a row's completion, of which the losses are recorded beside its own; they must hang on the
    row alone, so that all models are asked the same. `most_kept`: of each set to keep at most so many rows are measured
    at all, spread evenly; None: all, as an official score wants. `as_numbers`: of what is generated only what
    `scoring.matching` reads off it is looked at, so that evidence may be kept without text. `attacked`: sets of which
    each target's rank and distribution are recorded beside its loss, for attacks on tokens.
    """

    rows: int | None = 256
    kinds: tuple[str, ...] | None = None
    tokens: int | None = None
    clean_up: bool = False
    candidates: Callable[[Row], Alternatives | None] | None = None
    most_kept: int | None = None
    as_numbers: bool = False
    attacked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """What a benchmark must know beside the evidence.

    `holdout`: the judging rows were never trained on (else they are made from the forget rows). `ended`: documents
    were given an end token, whose loss is the last of each. `mmlu`: measured elsewhere. `retrained`: evidence of the
    retrained model, to which some scores compare; `log`: what `Benchmark.read_log` read, where there is no such model.
    """

    holdout: bool = True
    ended: bool = False
    mmlu: Scored = Missing("not measured: give --mmlu")
    retrained: Evidence | None = None
    log: Any = None


@dataclass(frozen=True, slots=True)
class Official:
    """The official scores of one model by name: the final and its parts, the terms behind them, and what is beside.

    `notes` say where these scores are not quite the official ones. `titles`: words for the page in place of its own, by
    "parts", "terms", "beside" and "lead".
    """

    parts: Mapping[str, Scored]
    terms: Mapping[str, Scored]
    beside: Mapping[str, Scored]
    notes: tuple[str, ...] = field(default=())
    titles: Mapping[str, str] = field(default_factory=dict)


class Benchmark(Protocol):
    """A benchmark of the catalogue. `make_row` is None where its files have the known forms of rows.

    `own_sets`: rows that every model is scored on whatever the request: by the name of a set, that of its file beside
    the forget rows (or of the configuration, in a hub data set), without ending.
    """

    title: ClassVar[str]
    generating: ClassVar[Generating]
    make_row: MakeRow | None
    own_sets: ClassVar[Mapping[str, str]]

    def official(self, evidence: Evidence, circumstances: Circumstances) -> Official | None:
        """The official scores of one model; None where the benchmark has none."""
        ...

    def behind(self, evidence: Evidence, circumstances: Circumstances) -> Mapping[str, Floats]:
        """Values of the rows behind those official scores that are means over rows, by the score's name."""
        ...

    def flags(self, unlearned: Official, original: Official | None, retrained: Sequence[Official]) -> list[str]:
        """What the official score hides, in sentences."""
        ...

    def exports(self, evidence: Evidence, circumstances: Circumstances) -> Mapping[str, object]:
        """JSON in the form of other tools by file name, numbers only; none where no other tool has one."""
        ...

    def read_log(self, content: object, where: str) -> object:
        """Scores of a retrained model from JSON of another tool, for `Circumstances.log`. Raises `InputError`."""
        ...


def no_log(where: str, title: str) -> InputError:
    """For benchmarks whose scores no other tool writes."""
    return InputError(f"{where}: {title} takes no scores of other tools. Leave out --retrained-log.")


def mean_of_runs(runs: Sequence[Draws | Missing]) -> Scored:
    """The mean over runs that resampled the same rows, or the first reason why one is missing."""
    known = [run for run in runs if isinstance(run, Draws)]
    missing = [run for run in runs if isinstance(run, Missing)]
    if missing:
        return missing[0]
    value = sum(run.value for run in known) / len(known)
    return Draws(value, np.mean([run.resampled for run in known], axis=0), known[0].count).score()


def drawn(given: Scored) -> Draws | Missing:
    """A score measured elsewhere as draws: normal, as wide as its interval."""
    if isinstance(given, Missing):
        return given
    wide = given.low is not None and given.high is not None
    half = (given.high - given.low) / 2 if wide else 0.0  # type: ignore[operator]
    noise = np.random.default_rng(0).normal(size=RESAMPLES) * half / norm.ppf((1 + CONFIDENCE) / 2)
    return Draws(given.value, given.value + noise, given.count)


def harmonic(values: Iterable[float]) -> float:
    """n / sum(1 / t) of n terms; 0 where one is exactly 0. In Python's floats: a NumPy zero must not divide."""
    plain = [float(value) for value in values]
    return len(plain) / sum(1 / value for value in plain) if min(plain) > 0 else 0.0


def combined(terms: Found, function: Callable[[Iterable[float]], float]) -> Draws | Missing:
    """A function of all terms, resample by resample; missing where one is."""
    known = [term for term in terms.values() if isinstance(term, Draws)]
    if len(known) < len(terms):
        return Missing("; ".join(dict.fromkeys(term.reason for term in terms.values() if isinstance(term, Missing))))
    resampled = np.array([function(values) for values in zip(*(term.resampled for term in known), strict=True)])
    return Draws(function(term.value for term in known), resampled, sum(term.count for term in known))


class Elementwise(Protocol):
    """A function of numbers, and of arrays of them one by one."""

    def __call__(self, values: Numbers, /) -> Numbers: ...


def mapped(found: Draws | Missing, function: Elementwise) -> Draws | Missing:
    """A function of a score, which takes numbers and arrays."""
    if isinstance(found, Missing):
        return found
    return Draws(float(function(found.value)), function(found.resampled), found.count)


def below(one: Scored, other: Scored) -> bool:
    """Whether the whole interval of one lies below that of the other."""
    bounds = (getattr(one, "high", None), getattr(other, "low", None))
    return bounds[0] is not None and bounds[1] is not None and bounds[0] < bounds[1]
