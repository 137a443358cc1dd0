"""Rows that stand for what is to be kept: those that were given, or text of the original's own."""

import numpy as np

from expunge.errors import InputError
from expunge.method import ACCEPTANCE, State
from expunge.problem import Problem, Split
from expunge.reference.replay import expected, sample

SAMPLED = 96  # texts of the original, where there are no retain rows
SAMPLED_TOKENS = 64


def rows_to_keep(problem: Problem) -> Split | None:
    """Retain rows and the target half of the holdout; None without retain rows to measure steps on."""
    if "retain" not in problem.splits or ACCEPTANCE not in problem.splits:
        return None
    retain = problem.splits["retain"]
    return retain.joined(problem.splits["unseen"]) if "unseen" in problem.splits else retain


def sampled(problem: Problem, state: State) -> Split:
    """Text of the original's own, a fifth of it to measure steps on; with the target half of the holdout."""
    found = sample(problem, SAMPLED, SAMPLED_TOKENS).split
    places = range(len(found))
    if len(found) < 2:
        raise InputError(
            "the original's own text holds forget rows alone: nothing says what is to stay. Give --retain."
        )
    state.splits[ACCEPTANCE] = found.of([place for place in places if place % 5 == 0], ACCEPTANCE)
    kept = found.of([place for place in places if place % 5], "keep")
    return kept.joined(problem.splits["unseen"]) if "unseen" in problem.splits else kept


def to_sample(problem: Problem) -> Split:
    """What stands for those texts in plans."""
    return expected(SAMPLED, SAMPLED_TOKENS, problem.rendering.context).split


def drawn(split: Split, most: int, seed: int, name: str) -> Split:
    """At most so many of the rows, drawn by the seed."""
    places = np.random.default_rng(seed).permutation(len(split.rows))[:most]
    return split.of(sorted(int(place) for place in places), name)
