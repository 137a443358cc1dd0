"""What was applied to a model, as the record has it: the subspace and the method."""

from dataclasses import asdict
from typing import Any

from expunge import registry
from expunge.config import commands
from expunge.loop.watch import Outcome
from expunge.model.select import Subspace
from expunge.records.reuse import Given


def subspace(chosen: Subspace) -> dict[str, Any]:
    """What could move."""
    total = sum(parameter.numel() for parameter in chosen.model.parameters())
    moving = sum(parameter.numel() for parameter in chosen.movable.values())
    return {"name": chosen.name, "reason": chosen.reason, "parameters": moving, "of": total}


def method(config: commands.Unlearn, outcome: Outcome, given: Given | None) -> dict[str, Any]:
    """How the method's run went, and what was given to it."""
    return {
        "name": registry.title(config.method),
        "options": asdict(config.options),
        "notes": outcome.notes | ({"curvature": given.figures()} if given else {}),
        "learning_rate": outcome.learning_rate,
        "steps": outcome.steps,
        "tokens": outcome.tokens,
        "row_passes": outcome.row_passes,
        "stopped": outcome.stopped,
        "attempts": outcome.attempts,
        "probe": outcome.probe,
        "proposals": outcome.proposals,
    }
