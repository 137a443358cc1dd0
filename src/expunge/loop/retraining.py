"""Retraining in place of unlearning: the twin itself is delivered, where `--method auto` takes that way.

The model is trained as `expunge retrain` trains a twin, and taken from the same cache; then it is written in the dtype
and form of the original, read back and judged like any other.
"""

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from expunge.config import commands
from expunge.intake.assembly import Assembled, load_other
from expunge.intake.sets import Checked
from expunge.loop import training, twins
from expunge.loop.delivery import deliver
from expunge.loop.training import Training
from expunge.loop.trial import Say, Trial
from expunge.loop.watch import Outcome
from expunge.model.select import Subspace
from expunge.reference.cache import row_losses
from expunge.runs.checkpoint import Checkpoints
from expunge.runs.environment import Clock
from expunge.runs.growing import Growing

NAME = "retraining"


def run(
    config: commands.Unlearn,
    checked: Checked,
    assembled: Assembled,
    settings: Training,
    folder: Path,
    log: Growing,
    say: Say,
    clock: Clock,
    checkpoints: Checkpoints,
) -> Trial:
    """Trains the base on all rows but those to forget, and delivers that model to `folder`."""
    problem = assembled.problem
    kept = twins.rows_left(checked, problem, say)
    with clock.stage("unlearn"):
        made = twins.trained(like_retrain(config), checked, kept.rows, problem, settings, say, checkpoints, log)
    twin = load_other(config, str(made), assembled, torch.float32)
    known, own = (float(row_losses(one, one.model, kept).mean()) for one in (problem, twin))
    comparable = twins.comparable(own, known)
    if not comparable:
        say(f"warning: loss on the kept rows {own:.3f}, of the original {known:.3f}: train it as long as that was")
    form = "adapter" if isinstance(twin.model, PeftModel) else "merged"
    weights = dict(twin.model.named_parameters())
    moved = {name: one for name, one in weights.items() if form == "merged" or "lora_" in name}
    subspace = Subspace(twin.model, moved, settings.subspace, "trained anew from the base", adapter=False)
    passes = training.cost(kept.windows, settings, config.seed)
    with clock.stage("save"):
        delivered = deliver(config, twin, folder, assembled, say, form)
    outcome = Outcome(
        stopped=f"trained for {settings.epochs} epochs on {len(kept)} rows",
        learning_rate=settings.learning_rate,
        steps=round(passes.updates),
        tokens=round(passes.tokens),
        row_passes=passes.row_passes,
        notes={"comparable": comparable},
    )
    return Trial(outcome, subspace, None, delivered)


def like_retrain(config: commands.Unlearning) -> commands.Retrain:
    """The configuration that `expunge retrain` would have for the same twin."""
    own = {one.name for one in fields(commands.Retrain)}
    shared: dict[str, Any] = {one.name: getattr(config, one.name) for one in fields(config) if one.name in own}
    return commands.Retrain(**shared)
