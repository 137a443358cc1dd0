"""What was applied to a model, as the record has it: the subspace and the method."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from expunge.loop.trial import Trial
from expunge.model.select import Subspace
from expunge.model.source import Source
from expunge.records.reuse import Given
from expunge.reporting import record

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def subspace(chosen: Subspace) -> record.Subspace:
    """What could move."""
    total = sum(parameter.numel() for parameter in chosen.model.parameters())
    moving = sum(parameter.numel() for parameter in chosen.movable.values())
    return record.Subspace(chosen.name, chosen.reason, moving, total)


def method(
    name: str, options: "DataclassInstance", done: Trial, given: Given | None = None, first: Source | None = None
) -> record.Method:
    """How the method's run went, which layers it moved, and what was given to it; `options`: a dataclass; `first`: the
    model that rows to keep were held to in place of the given one."""
    outcome, notes = done.outcome, dict(done.outcome.notes)
    notes |= {"layers": done.linear._asdict()} if done.linear else {}
    notes |= {"curvature": given.figures()} if given else {}
    notes |= (
        {record.HELD_TO: str(Path(first.path).absolute()) if Path(first.path).exists() else first.path} if first else {}
    )
    return record.Method(
        name=name,
        options=asdict(options),
        notes=notes,
        learning_rate=outcome.learning_rate,
        steps=outcome.steps,
        tokens=outcome.tokens,
        row_passes=outcome.row_passes,
        stopped=outcome.stopped,
        attempts=tuple(record.Attempt(**one) for one in outcome.attempts),
        probe=outcome.probe,
        proposals=tuple(map(record.proposal, outcome.proposals)),
    )
