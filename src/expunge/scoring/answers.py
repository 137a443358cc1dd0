"""The true answer to a question beside wrong ones, by their losses per token: TOFU's arithmetic, in logarithms.

Maini et al., "TOFU: A Task of Fictitious Unlearning for LLMs", 2401.06121, section 2.2; what its two public codes do is
named at each function. An answer's probability is the geometric mean of its tokens' probabilities, exp(-loss), and with
R = P(wrong answers) / P(true answer in other words) a row's *truth ratio* is made of log R:

    geometric   log R = loss(true) - mean_k loss(wrong_k)         (both codes: forget quality; open-unlearning: all)
    arithmetic  log R = loss(true) + log mean_k exp(-loss(wrong_k))         (the paper; TOFU's model utility)

Shapes: n rows, K wrong answers of a row, nan where it has fewer.

Departure. Nothing is added to a denominator (open-unlearning: 1e-10). Where all losses are so large that probabilities
round to 0, as on a collapsed model, theirs gives R = 0, which reads as a model that knows the truth; here R stays.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp
from scipy.stats import ks_2samp

from expunge.scoring.evidence import OtherAnswers, SetEvidence
from expunge.scoring.intervals import Floats
from expunge.scoring.matching import rouge_recall

FAR = 700.0  # of log R: exp of it is still finite


@dataclass(frozen=True, slots=True)
class Answers:
    """One model on n questions. Losses in nats per token, the end token counted: `loss` [n] of the answer, `true` [n]
    of the answer in other words (its own where there are none), `wrong` [n, K]. `recall` [n]: ROUGE-L recall of the
    answer in what the model generates; nan where nothing was generated."""

    loss: Floats
    true: Floats
    wrong: Floats
    recall: Floats

    def __len__(self) -> int:
        return len(self.loss)

    @property
    def compared(self) -> NDArray[np.bool_]:
        """[n]: rows that have a wrong answer, and those whose own loss is not a number, which is not to be hidden."""
        return np.asarray((~np.isnan(self.wrong)).any(axis=1) | np.isnan(self.loss))


@dataclass(frozen=True, slots=True)
class Compared:
    """Two-sided Kolmogorov-Smirnov test of two samples: its p, and the distance of their distributions, 0 to 1."""

    p: float
    distance: float


def answers_of(rows: SetEvidence) -> Answers:
    """Of a set whose rows have other answers or not. A row with an infinite loss has no numbers: its probability would
    be 0, as of an answer that is not known."""
    others = rows.others or OtherAnswers(np.empty((len(rows.loss), 0)), np.empty((len(rows.loss), 0)))
    known = ~np.isnan(others.paraphrased)
    count = known.sum(axis=1)
    means = np.where(known, others.paraphrased, 0.0).sum(axis=1) / np.maximum(count, 1)
    broken = np.isinf(np.column_stack([rows.loss, others.paraphrased, others.perturbed])).any(axis=1)
    loss = np.where(broken, np.nan, rows.loss)
    return Answers(loss, np.where((count > 0) & ~broken, means, loss), others.perturbed, recalls(rows))


def recalls(rows: SetEvidence) -> Floats:
    """[n]: ROUGE-L recall of answers, stemmed, tokens [a-z0-9]+, as both codes take it; nan where nothing was
    generated."""
    found = np.full(len(rows.kinds), np.nan)
    for index in rows.of_kind("answer"):
        reference, generation = rows.references[index], rows.generations[index]
        if reference is not None and generation is not None:
            found[index] = rouge_recall(reference, generation, any_script=False)
    return found


def probability(loss: Floats) -> Floats:
    """exp(-loss): the geometric mean of the tokens' probabilities, so that long answers are not less likely; nan where
    the loss is not finite."""
    return np.asarray(np.where(np.isfinite(loss), np.exp(-loss), np.nan))


def among_options(answers: Answers) -> Floats:
    """[n]: P(true) / (P(true) + sum_k P(wrong_k)); real authors and world facts. 1 / (K + 1) for a model that guesses.

    The true one is the answer itself, not its paraphrase. open-unlearning: probability_w_options.
    """
    every = np.column_stack([answers.loss, answers.wrong])
    total = (
        logsumexp(np.where(np.isnan(answers.wrong), -np.inf, -answers.wrong), axis=1) if every.shape[1] > 1 else None
    )
    return np.ones(len(answers)) if total is None else np.asarray(expit(-answers.loss - total))


def geometric(answers: Answers) -> Floats:
    """log R [n] with the geometric mean over wrong answers; nan for rows without one."""
    known = ~np.isnan(answers.wrong)
    count = known.sum(axis=1).astype(float)
    means = np.where(known, answers.wrong, 0.0).sum(axis=1) / np.where(count > 0, count, np.nan)
    return np.asarray(answers.true - means)


def arithmetic(answers: Answers) -> Floats:
    """log R [n] with the arithmetic mean over wrong answers; nan for rows without one."""
    count = (~np.isnan(answers.wrong)).sum(axis=1).astype(float)
    return np.asarray(answers.true + _summed(answers) - np.log(np.where(count > 0, count, np.nan)))


def ratio(log_ratio: Floats) -> Floats:
    """R [n], finite."""
    return np.asarray(np.exp(np.clip(log_ratio, -FAR, FAR)))


def closer_to_one(log_ratio: Floats) -> Floats:
    """min(R, 1 / R) [n]: TOFU and open-unlearning on forget rows. 1: true and wrong are equally likely, as to a model
    that never saw the row, and as to one that knows nothing at all."""
    return np.asarray(np.exp(-np.abs(log_ratio)))


def true_better(log_ratio: Floats) -> Floats:
    """max(0, 1 - R) [n]: TOFU and open-unlearning on all other rows, a term of model utility."""
    return np.asarray(np.maximum(0.0, 1.0 - ratio(log_ratio)))


def true_share(log_ratio: Floats) -> Floats:
    """1 / (1 + R) = P(true) / (P(true) + P(wrong)) [n]: open-unlearning's prob_mean (since its #163), the extent of
    knowledge. 0.5 for a model that cannot tell."""
    return np.asarray(expit(-log_ratio))


DEFINITIONS: Mapping[str, Callable[[Answers], Floats]] = {
    "min(R, 1/R)": lambda answers: closer_to_one(geometric(answers)),
    "min(R, 1/R), arithmetic mean": lambda answers: closer_to_one(arithmetic(answers)),
    "max(0, 1 - R)": lambda answers: true_better(geometric(answers)),
    "max(0, 1 - R), arithmetic mean": lambda answers: true_better(arithmetic(answers)),
    "true / (true + wrong)": lambda answers: true_share(geometric(answers)),
}
"""The published definitions of the truth ratio of a row, named by what they are."""


def compared(ours: Floats, theirs: Floats) -> Compared | None:
    """Forget quality: whether truth ratios of an unlearned and a retrained model could be of one distribution.

    By log R, which orders rows as R and 1 / R do (TOFU compares 1 / R, open-unlearning R): the test sees ranks alone.
    None where either has no row.
    """
    if not len(ours) or not len(theirs):
        return None
    found = ks_2samp(ours, theirs, alternative="two-sided")
    return Compared(float(found.pvalue), float(found.statistic))


def telling(ours: int, theirs: int, level: float = 0.05) -> float:
    """The least distance that the test tells from chance at a level, of so many rows each: sqrt(-ln(level / 2) / 2)
    times sqrt((n + m) / (n m)), the asymptotic critical value."""
    return float(np.sqrt(-np.log(level / 2) / 2 * (ours + theirs) / (ours * theirs)))


def _summed(answers: Answers) -> Floats:
    """log of the summed probabilities of the wrong answers [n]; -inf for rows without one."""
    with np.errstate(divide="ignore"):
        absent = np.full((len(answers), 1), -np.inf)  # so that a row without any has something to sum
        return np.asarray(logsumexp(np.column_stack([absent, np.nan_to_num(-answers.wrong, nan=-np.inf)]), axis=1))
