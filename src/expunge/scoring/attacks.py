"""Scores of single rows by their tokens: membership attacks, extraction strength, exact memorisation.

All give [n] for a set of n rows, and None for a set whose tokens were not recorded. Whatever the attack, less of its
score means a likelier member, as with a loss.
"""

from collections.abc import Callable

import numpy as np

from expunge.scoring.evidence import SetEvidence
from expunge.scoring.intervals import Floats, Score, area_draws

SHARE = 0.4  # of a row's tokens, the least likely: what open-unlearning takes for TOFU
LEAST_VARIANCE = 1e-6  # open-unlearning's
RowScore = Callable[[SetEvidence], Floats | None]


def loss(rows: SetEvidence) -> Floats | None:
    """The mean loss of a row."""
    return None if rows.no_losses else rows.loss


def reference(rows: SetEvidence) -> Floats | None:
    """A row's loss less what it costs under a model that never saw it (Carlini et al., 2012.07805): how hard the row
    is in itself falls out."""
    return None if rows.no_losses or rows.reference_loss is None else np.asarray(rows.loss - rows.reference_loss)


def zlib(rows: SetEvidence) -> Floats | None:
    """A row's loss per token over the bytes that zlib needs for its text (Carlini et al., 2012.07805).

    As open-unlearning has it; the paper divides the loss of the whole text.
    """
    return None if rows.tokens is None else np.asarray(rows.loss / rows.tokens.compressed)


def min_k(rows: SetEvidence) -> Floats | None:
    """Minus the mean log-probability of a row's least likely tokens (Shi et al., 2310.16789): `SHARE` of them, rounded
    down, and one at least; nan without tokens."""
    return None if rows.tokens is None else _least(rows.tokens.by_row(-rows.tokens.loss))


def min_k_plus_plus(rows: SetEvidence) -> Floats | None:
    """As `min_k`, of (log p - mean) / sqrt(variance), both over the vocabulary (Zhang et al., 2404.02936)."""
    if (tokens := rows.tokens) is None:
        return None
    return _least(tokens.by_row((-tokens.loss - tokens.mean) / np.sqrt(np.maximum(tokens.variance, LEAST_VARIANCE))))


def extraction_strength(rows: SetEvidence) -> Floats | None:
    """1 - k / T: k is the least number of an answer's first tokens after which the model's first choice is right to the
    end, T how many it has (Carlini et al., 2012.07805, as open-unlearning); nan without tokens and for broken losses.

    Departure: 0 where even the last token is wrong. open-unlearning's loop ends one short there and gives 1 / T.
    """
    if rows.tokens is None:
        return None
    found = []
    for right in rows.tokens.by_row(rows.tokens.likeliest):
        wrong = np.flatnonzero(right < 0.5)
        first = int(wrong[-1]) + 1 if len(wrong) else 0
        found.append(1 - first / len(right) if len(right) and not np.isnan(right).any() else np.nan)
    return np.array(found)


def exact_memorisation(rows: SetEvidence) -> Floats | None:
    """Share of an answer's tokens that are the model's first choice, teacher-forced (Tirumala et al., 2205.10770); nan
    without tokens."""
    if rows.tokens is None:
        return None
    return np.array([part.mean() if len(part) else np.nan for part in rows.tokens.by_row(rows.tokens.likeliest)])


def attack(members: SetEvidence, others: SetEvidence | None, of: RowScore) -> Score | None:
    """Area under the ROC curve of telling members from rows that were never trained on; the interval resamples both.

    Pairs are formed within a kind of row only, since documents and answers differ in loss for reasons that have nothing
    to do with membership. nan where a row's score is; None where there is no pair, and where nothing was recorded.
    """
    ours, theirs = of(members), None if others is None else of(others)
    if others is None or ours is None or theirs is None:
        return None
    kinds = sorted(set(members.kinds) & set(others.kinds))
    groups = [(ours[members.of_kind(kind)], theirs[others.of_kind(kind)]) for kind in kinds]
    if any(np.isnan(scores).any() for group in groups for scores in group):  # which would count as a great loss
        return Score(float("nan"), None, None, sum(len(group[0]) for group in groups))
    draws = area_draws(groups)
    return draws.score() if draws else None


def _least(log_probabilities: list[Floats]) -> Floats:
    """Minus the mean of the least `SHARE` of each row's values; nan where one is not finite: sorting would hide it."""
    whole = [row if np.isfinite(row).all() else row[:0] for row in log_probabilities]
    ordered = [np.sort(row)[: max(1, int(len(row) * SHARE))] for row in whole]
    return np.array([-row.mean() if len(row) else np.nan for row in ordered])
