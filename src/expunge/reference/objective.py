"""What loss matching needs before its first step: targets, replay and the original's distributions.

Below the methods, since others lead their forget rows to the same targets.
"""

import math

import numpy as np
import torch

from expunge.data.splits import shape
from expunge.method import State
from expunge.problem import Problem, Split
from expunge.reference.cache import keep_distributions, row_losses
from expunge.reference.replay import sample
from expunge.reference.targets import Measured, Targets, match

FEWEST_STEPS = 160
MOST_PASSES = 28


def prepare(problem: Problem, replay_texts: int, replay_tokens: int) -> State:
    """Targets for the forget rows, and for KL terms the original's distributions on unseen rows and replay."""
    state = State()
    targets = find_targets(problem)
    state.targets = torch.tensor(targets.values, dtype=torch.float32, device=problem.runtime.device)
    state.notes["targets"] = {"source": targets.source, "calibrated": targets.calibrated}
    if "unseen" in problem.splits:
        state.caches["unseen"] = keep_distributions(problem, problem.splits["unseen"])
    if replay_texts:
        replay = sample(problem, replay_texts, replay_tokens)
        state.notes["replay"] = {
            "kept": len(replay.split),
            "sampled": replay.sampled,
            "dropped": {
                "near forget rows": replay.near_forget,
                "repeats": replay.repeats,
            },
        }
        if len(replay.split):
            state.splits["replay"] = replay.split
            state.caches["replay"] = keep_distributions(problem, replay.split)
    return state


def find_targets(problem: Problem) -> Targets:
    """Targets from the best source that the problem has (see `reference.targets`)."""
    forget = problem.splits["forget"]
    with problem.original() as original:
        known = measure(problem, original, forget)
        difficulty = Measured(known.kinds, known.shapes, known.losses if problem.base is None else problem.base)
        if "unseen" in problem.splits:
            return Targets(match(difficulty, measure(problem, original, problem.splits["unseen"])), "holdout")
        if problem.base is not None:
            return Targets(problem.base, "base")
        recombined = measure(problem, original, problem.splits["counterfactual"])
        return Targets(match(difficulty, recombined), "counterfactual")


def measure(problem: Problem, model: torch.nn.Module, split: Split) -> Measured:
    """Kinds, shapes and losses of a split's rows under a model."""
    kinds = [row.kind for row in split.rows]
    return Measured(kinds, np.array([shape(row) for row in split.rows]), row_losses(problem, model, split).numpy())


def steps_for(problem: Problem, rows: int) -> int:
    """Most steps of an attempt: 28 passes over the forget rows, and at least 160."""
    return max(FEWEST_STEPS, MOST_PASSES * math.ceil(len(problem.splits["forget"].windows) / rows))
