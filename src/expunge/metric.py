"""Contract: what evidence holds, and what a metric is: a pure function of evidence (NumPy in, no torch)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

Floats = NDArray[np.float64]
RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Candidates:
    """One model's losses of a secret and of other texts of its form in its place.

    `losses` [1 + n]: the secret's own first, the others in random order where they are a sample; summed over tokens
    (without an end token), nats. `bits`: log2 of the number of all texts of that form.
    """

    losses: Floats
    bits: float

    @property
    def exact(self) -> bool:
        """Whether all texts of the form were scored."""
        return bool(np.isclose(np.log2(len(self.losses)), self.bits))


@dataclass(frozen=True, slots=True)
class SetEvidence:
    """One model on one set of n rows.

    `loss` [n]: mean over the row's targets, nats; `targets` [n]: how many; `token_loss`: all targets' losses, row
    after row. `references` and `generations` [n]: the answer (or second half of a document) and what the model
    generates greedily in its place; None for rows that were not generated.
    `shapes` [n, 2]: what the loss of unseen text depends on most (`data.splits.shape`), to find rows that compare.
    `kl` [n]: KL(original, this model) summed over a row's targets, nats; nan for rows, None for sets not measured.
    `candidates`: by row index, for rows that hold a secret to be ranked (see `benchmark.Generating`).
    """

    kinds: tuple[str, ...]
    tasks: tuple[str, ...]
    loss: Floats
    targets: Floats
    token_loss: Floats
    references: tuple[str | None, ...]
    generations: tuple[str | None, ...]
    shapes: Floats
    candidates: Mapping[int, Candidates] = field(default_factory=dict)
    kl: Floats | None = None

    def of_kind(self, kind: str) -> NDArray[np.intp]:
        """Indices of the rows of a kind."""
        return np.flatnonzero([other == kind for other in self.kinds])

    def numbers(self) -> dict[str, NDArray[np.generic]]:
        """What may be written: no text. Losses of candidates are sorted: their places would name the secret."""
        found: dict[str, NDArray[np.generic]] = {
            "loss": self.loss,
            "targets": self.targets,
            "token_loss": self.token_loss,
        }
        if self.kl is not None:
            found["kl"] = self.kl
        for index, one in self.candidates.items():
            found[f"candidates_{index}"] = np.array([one.losses[0], *np.sort(one.losses[1:])])
        return found


@dataclass(frozen=True, slots=True)
class Evidence:
    """One model (original, unlearned or retrained) on all sets: forget, judging, retain, guard, collateral, samples."""

    sets: Mapping[str, SetEvidence]


@dataclass(frozen=True, slots=True)
class Score:
    """A value with its 95 % interval (None where none is defined) and the number of rows behind it."""

    value: float
    low: float | None
    high: float | None
    count: int


class Metric(Protocol):
    """A metric of the catalogue. `sets` names the sets it is defined on."""

    sets: ClassVar[tuple[str, ...]]

    def __call__(self, evidence: Evidence, name: str) -> Score | None:
        """The score of one model on the set `name`; None where that set has nothing to measure."""
        ...


@dataclass(frozen=True, slots=True)
class Draws:
    """A value, what it would be on each of 2,000 resamples of the rows, and the number of rows behind it."""

    value: float
    resampled: Floats
    count: int

    def score(self) -> Score:
        """The value with its percentile interval."""
        low, high = np.quantile(self.resampled, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Score(float(self.value), float(low), float(high), self.count)


def mean_draws(values: Floats, seed: int = 0) -> Draws | None:
    """Mean over rows; None where there are none."""
    if not len(values):
        return None
    return Draws(float(values.mean()), bootstrap(len(values), seed) @ values / len(values), len(values))


def mean_score(values: Floats) -> Score | None:
    """Mean with a percentile bootstrap over rows (2,000 resamples, seed 0)."""
    draws = mean_draws(values)
    return draws.score() if draws else None


def area_draws(groups: Sequence[tuple[Floats, Floats]]) -> Draws | None:
    """Area under the ROC curve of telling members from others by their lower loss; ties count half.

    Pairs (member, other) are formed within a group only; resamples draw both sides anew. None where there is no pair.
    """
    won, pairs = np.zeros(RESAMPLES + 1), np.zeros(RESAMPLES + 1)
    count = 0
    for place, (members, others) in enumerate(groups):
        if not len(members) or not len(others):
            continue
        difference = others[None, :] - members[:, None]
        wins = (difference > 0) + 0.5 * (difference == 0)
        rows = np.vstack([np.ones(len(members)), bootstrap(len(members), seed=2 * place + 1)])
        columns = np.vstack([np.ones(len(others)), bootstrap(len(others), seed=2 * place + 2)])
        won += np.einsum("bi,ij,bj->b", rows, wins, columns, optimize=True)
        pairs += rows.sum(axis=1) * columns.sum(axis=1)
        count += len(members)
    return Draws(float(won[0] / pairs[0]), won[1:] / pairs[1:], count) if pairs[0] else None


def share_score(hits: NDArray[np.bool_]) -> Score | None:
    """Share of true entries with Wilson's interval, which stays sensible at 0 and 1."""
    n = len(hits)
    if not n:
        return None
    p, z = float(hits.mean()), float(norm.ppf((1 + CONFIDENCE) / 2))
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * float(np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)))
    low, high = (0.0 if p == 0 else middle - half), (1.0 if p == 1 else middle + half)
    return Score(p, max(0.0, low), min(1.0, high), n)


def bootstrap(count: int, seed: int = 0) -> Floats:
    """Resampling weights [2000, count]: how often each row is drawn in each resample."""
    random = np.random.default_rng(seed)
    return random.multinomial(count, np.full(count, 1 / count), size=RESAMPLES).astype(np.float64)
