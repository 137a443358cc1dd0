"""What evidence holds: everything that a metric may look at, in NumPy, without a model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from expunge.scoring.intervals import Floats


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
class OtherAnswers:
    """Mean losses per token, end token included, of other answers to the prompts of n rows, in nats.

    `paraphrased` [n, A]: the true answer in other words; `perturbed` [n, K]: wrong answers. nan where a row has fewer.
    """

    paraphrased: Floats
    perturbed: Floats


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is read off each target of n rows beside its loss; an answer's end token is left out.

    `counts` [n]: targets of each row. Of all targets, row after row: `loss`, nats; `likeliest`: 1 where the model's
    first choice is the target, 0 where not, nan where the loss is; `mean` and `variance` of log p(v), v drawn from the
    model's own distribution at that place. `compressed` [n]: bytes of the row's completion after zlib.
    """

    counts: Floats
    loss: Floats
    likeliest: Floats
    mean: Floats
    variance: Floats
    compressed: Floats

    def by_row(self, values: Floats) -> list[Floats]:
        """Values of all targets, split into rows."""
        return np.split(values, np.cumsum(self.counts).astype(int))[:-1]


@dataclass(frozen=True, slots=True)
class SetEvidence:
    """One model on one set of n rows.

    `loss` [n]: mean over the row's targets, nats; `targets` [n]: how many; `token_loss`: all targets' losses, row
    after row. `references` and `generations` [n]: the answer (or second half of a document) and what the model
    generates greedily in its place; None for rows that were not generated.
    `shapes` [n, 2]: what the loss of unseen text depends on most (`data.splits.shape`), to find rows that compare.
    `kl` [n]: KL(original, this model) summed over a row's targets, nats; nan for rows, None for sets not measured; inf
    where it is not a number.
    `read` [n] each: what `scoring.matching` reads off the generations, where only that was kept and not the text: such
    sets have no references, and hashes for generations.
    `no_losses`: why none were taken, as of a model that only answers ("": they were); then `loss` is nan throughout and
    `token_loss` is empty, and no word may rest on them.
    `candidates`: by row index, for rows that hold a secret to be ranked (see `benchmark.Generating`).
    `others`: of sets whose rows have other answers (see `data.rows`); `tokens`: of sets that a benchmark attacks.
    `reference_loss` [n]: the same rows' losses under a retrained model, for attacks that take it for a measure of how
    hard a row is; None where there is none, and in the evidence of that model itself.
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
    read: Mapping[str, Floats] = field(default_factory=dict)
    others: OtherAnswers | None = None
    tokens: Tokens | None = None
    no_losses: str = ""
    reference_loss: Floats | None = None

    def of_kind(self, kind: str) -> NDArray[np.intp]:
        """Indices of the rows of a kind."""
        return np.flatnonzero([other == kind for other in self.kinds])

    @property
    def finite(self) -> bool:
        """Whether all losses that were taken are numbers; a KL that was not measured and an answer that is not there
        (nan) are no fault, what is infinite is."""
        known = [self.targets, self.token_loss, *(one.losses for one in self.candidates.values())]
        known += [] if self.no_losses else [self.loss]
        known += [self.tokens.loss] if self.tokens else []
        sparse = [self.kl] if self.kl is not None else []
        sparse += [self.others.paraphrased, self.others.perturbed] if self.others else []
        return all(bool(np.isfinite(values).all()) for values in known) and not any(
            np.isinf(part).any() for part in sparse
        )

    def numbers(self) -> dict[str, NDArray[np.generic]]:
        """What may be written: no text. Losses of candidates are sorted: their places would name the secret."""
        found: dict[str, NDArray[np.generic]] = {
            "loss": self.loss,
            "targets": self.targets,
            "token_loss": self.token_loss,
        }
        if self.kl is not None:
            found["kl"] = self.kl
        for name, part in (("others", self.others), ("tokens", self.tokens)):
            found |= {f"{name}_{one.name}": getattr(part, one.name) for one in fields(part)} if part else {}
        for index, one in self.candidates.items():
            found[f"candidates_{index}"] = np.array([one.losses[0], *np.sort(one.losses[1:])])
        return found


@dataclass(frozen=True, slots=True)
class Evidence:
    """One model (original, unlearned or retrained) on all sets: forget, judging, retain, guard, collateral, samples."""

    sets: Mapping[str, SetEvidence]

    def beside(self, reference: "Evidence") -> "Evidence":
        """The same with losses of a reference model."""
        other = {name: one.loss for name, one in reference.sets.items()}
        return Evidence({name: replace(own, reference_loss=other.get(name)) for name, own in self.sets.items()})


def not_finite(models: Mapping[str, Evidence | None], names: Sequence[str]) -> str:
    """The first of the sets, and the model, of which a figure is not a number, in words; empty where there is none."""
    for name, (model, evidence) in product(names, models.items()):
        rows = evidence.sets.get(name) if evidence is not None else None
        if rows is not None and not rows.finite:
            return f"losses of {name} rows under the {model} model are not finite numbers"
    return ""
