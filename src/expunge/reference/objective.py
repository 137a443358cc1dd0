"""The objective of `methods/loss_matching.py`, whose docstring has the formula, and what it needs at the original.

Below the methods, since others lead their forget rows to the same targets and repair by the same descent.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from expunge.data.batches import Batch
from expunge.data.passes import Passes, measuring
from expunge.data.splits import shape
from expunge.errors import InputError
from expunge.method import Needs, Replay, State, Terms
from expunge.model.losses import huber, target_kl, target_nll, window_means
from expunge.problem import Problem, Split
from expunge.reference.cache import keep_distributions, row_losses
from expunge.reference.replay import sample
from expunge.reference.targets import Measured, Shaped, Targets, comparable, match

FEWEST_STEPS = 160
MOST_PASSES = 28
FEWEST_OTHERS = 16  # retain rows and replay texts a step, however few the forget rows are
SOURCES = ("unseen", "counterfactual")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """Weights of the terms, and the width of the Huber loss in nats per token."""

    retain_weight: float = 1.0
    unseen_weight: float = 1.0
    replay_weight: float = 2.0
    width: float = 0.5

    def loss(self, problem: Problem, state: State, batch: Batch) -> Terms:
        """The objective on one batch of one split."""
        if batch.split in ("forget", "retain"):
            means = window_means(target_nll(problem.model, batch), batch)
            if batch.split == "retain":
                return Terms({"retain": means.mean()}, self.retain_weight * means.mean())
            gap = means - state.targets[batch.rows]
            pull = state.pressure * huber(gap, self.width).mean()
            return Terms({"forget": means.mean(), "gap": gap.abs().mean()}, pull)
        kl = window_means(target_kl(problem.model, batch, state.caches[batch.split].of(batch)), batch).mean()
        weight = self.unseen_weight if batch.split == "unseen" else self.replay_weight
        return Terms({f"{batch.split}_kl": kl}, weight * kl)


def draws(problem: Problem, forget_rows: int) -> Mapping[str, int]:
    """Windows of each split in a step: twice as many retain rows as forget rows, as much replay as forget rows."""
    rows = min(forget_rows, len(problem.splits["forget"].windows))
    others = max(rows, FEWEST_OTHERS)
    replay = others if "retain" in problem.splits else 2 * others
    return {"forget": rows, "retain": max(2 * rows, others), "unseen": others // 2, "replay": replay}


def needs(replay_texts: int, replay_tokens: int) -> Needs:
    """Targets, and the original's distributions on unseen rows and on replay."""
    replay = Replay(texts=replay_texts, tokens=replay_tokens) if replay_texts else None
    return Needs(targets=True, kept={"unseen": "distributions", "replay": "distributions"}, replay=replay)


def with_targets(problem: Problem, needed: bool = False) -> State:
    """A state with targets where the problem has anything to take them from; raises `InputError` where `needed`."""
    state = State()
    if problem.base is None and not set(SOURCES) & problem.splits.keys():
        if needed:
            raise InputError("a step to targets needs targets. Give --holdout or --base, or use step: budget.")
        return state
    targets = find_targets(problem)
    state.targets = torch.tensor(targets.values, dtype=torch.float32, device=problem.runtime.device)
    state.notes["targets"] = {"source": targets.source, "calibrated": targets.calibrated}
    return state


def prepare(problem: Problem, replay_texts: int, replay_tokens: int) -> State:
    """Targets for the forget rows, and for KL terms the original's distributions on unseen rows and replay."""
    state = with_targets(problem, needed=True)
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
        losses = row_losses(problem, original, forget).numpy() if problem.base is None else problem.base
        difficulty = Measured(shaped(forget), losses)
        if "unseen" in problem.splits:
            return Targets(match(difficulty, compared(problem, original, "unseen")), "holdout")
        if problem.base is not None:
            return Targets(problem.base, "base")
        return Targets(match(difficulty, compared(problem, original, "counterfactual")), "counterfactual")


def shaped(split: Split) -> Shaped:
    """Kinds and shapes of a split's rows."""
    return Shaped([row.kind for row in split.rows], np.array([shape(row) for row in split.rows]))


def compared(problem: Problem, original: torch.nn.Module, source: str) -> Measured:
    """Of the rows of a source those that are compared with a forget row have losses, the others NaN."""
    split = problem.splits[source]
    indices = comparable(shaped(problem.splits["forget"]), shaped(split))
    losses = np.full(len(split.rows), np.nan)
    losses[indices] = row_losses(problem, original, split.of(indices, source)).numpy()
    return Measured(shaped(split), losses)


def cost(problem: Problem) -> Passes:
    """Of `find_targets`; in a plan, where the base's losses are not known, as if there were no base."""
    forget = problem.splits["forget"]
    looked = [] if problem.base is not None else [forget]
    source = next((name for name in SOURCES if name in problem.splits), None)
    if source == "unseen" or (source and problem.base is None):
        split = problem.splits[source]
        looked.append(split.of(comparable(shaped(forget), shaped(split)), source))
    return Passes(plain=[part for split in looked for part in measuring(split.windows)])


def steps_for(problem: Problem, rows: int) -> int:
    """Most steps of an attempt: 28 passes over the forget rows, and at least 160."""
    return max(FEWEST_STEPS, MOST_PASSES * math.ceil(len(problem.splits["forget"].windows) / rows))
