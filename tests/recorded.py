"""Parts of evidence that a benchmark with other answers has recorded, without a model."""

import numpy as np

from expunge.scoring.evidence import OtherAnswers, Tokens
from expunge.scoring.intervals import Floats


def others_of(losses: Floats) -> OtherAnswers:
    """A paraphrase, and three wrong answers of which every second row has two."""
    wrong = losses[:, None] + np.array([0.5, 1.0, 1.5])
    wrong[1::2, 2] = np.nan
    return OtherAnswers(losses[:, None] + 0.25, wrong)


def tokens_of(losses: Floats, counts: Floats) -> Tokens:
    """All tokens of a row have its loss; the last of each is the model's first choice, and the first of every third."""
    repeated = np.repeat(losses, counts.astype(int))
    likeliest = np.zeros(len(repeated))
    ends = np.cumsum(counts).astype(int)
    likeliest[ends - 1] = 1.0
    likeliest[(ends - counts.astype(int))[::3]] = 1.0
    broken = np.isnan(repeated)
    return Tokens(counts, repeated, np.where(broken, np.nan, likeliest), -2 - repeated, repeated + 1, 20 + losses * 0)
