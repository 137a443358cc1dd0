"""One unlearning of one model, from its subspace to the files read back: `unlearn`, and each cell of `compare`."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from expunge import registry
from expunge.config import commands
from expunge.config.commands import EARLIER
from expunge.config.flags import AUTO, METHOD
from expunge.config.lora import is_lora
from expunge.config.options import build
from expunge.errors import InputError
from expunge.influence.low_rank import SHARE
from expunge.intake.assembly import Assembled, load_from, load_other
from expunge.intake.sets import Checked
from expunge.loop.batch_tokens import begin
from expunge.loop.delivery import Delivered, deliver, form_of, merged_for
from expunge.loop.moving import choose
from expunge.loop.phases import apply
from expunge.loop.watch import Outcome
from expunge.method import Method
from expunge.model.choice import Choice
from expunge.model.select import Subspace
from expunge.reference.cache import row_losses, target_margins
from expunge.reference.replay import sample
from expunge.runs.checkpoint import Checkpoints
from expunge.runs.environment import Clock
from expunge.runs.growing import Log

CHOICES = "choices"  # made by the memory that was free when the run began; it goes on with the same
SAMPLES = 64
SAMPLE_TOKENS = 64
SAMPLE_SEED = 7919  # away from the seeds that replay draws from
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Trial:
    """How the method's run went, what could move (of which linear layers, where the method moves those alone), and the
    model as it was written and read back."""

    outcome: Outcome
    subspace: Subspace
    linear: Choice | None
    delivered: Delivered


@dataclass(frozen=True, slots=True)
class Base:
    """What the base model makes of the forget rows: losses [rows] in nats per target, margins [targets]."""

    losses: Any
    margins: torch.Tensor


def run(
    config: commands.Unlearn,
    assembled: Assembled,
    base: Base | None,
    folder: Path,
    log: Log,
    say: Say,
    clock: Clock,
    tokens: int | None = None,
    checkpoints: Checkpoints | None = None,
    linear: str | None = None,
) -> Trial:
    """Unlearns the assembled problem's model, which is consumed, and writes it to `folder`.

    `base`: what the base model makes of the forget rows, where there is one; `tokens`: a budget (see `apply`);
    `linear`: the layers of a curvature that was given.
    """
    problem = assembled.problem
    kept = checkpoints.load(CHOICES) if checkpoints else None
    torch.manual_seed(config.seed)  # the first factors of a LoRA are drawn by it
    if kept:
        config, linear = replace(config, subspace=kept["subspace"]), kept["linear"]
    as_adapter = config.save_as == "adapter"
    because = kept["reason"] if kept else ""
    chosen = choose(problem, config.options.needs, config.subspace, linear, say, as_adapter, because)
    subspace = chosen.subspace
    problem = replace(problem, model=subspace.model, adapter=subspace.adapter, movable=subspace.movable)
    whole = not (subspace.name == "adapter" or is_lora(subspace.name))
    form = form_of(config, assembled.source.adapter, whole)
    if lost := merged_for(config, assembled.source.adapter, form):
        say(f"save: a whole model, as the change cannot be an adapter again: {lost}")
    problem = replace(problem, low_rank=SHARE if whole and form == "adapter" else None)
    if base is not None:
        problem = replace(problem, base=base.losses, base_margins=base.margins)
    begin(problem, subspace.name, config, say)
    if kept:
        problem.portions.load_state_dict(kept["portions"])
    elif checkpoints:
        choices = {"subspace": subspace.name, "reason": subspace.reason, "portions": problem.portions.state_dict()}
        checkpoints.save(CHOICES, choices | {"linear": chosen.linear.which if chosen.linear else None})
    with clock.stage("unlearn"):
        outcome = apply(config.options, problem, log, tokens, checkpoints)
    if problem.portions.halvings:
        say(f"memory: batches were cut {problem.portions.halvings} times, to {problem.portions.tokens} tokens")
    for warning in dict.fromkeys(entry["notes"].get("warning") for entry in outcome.proposals):
        if warning:
            say(f"warning: {warning}")
    say(f"stopped after {outcome.steps} steps: {outcome.stopped}")
    with clock.stage("save"):
        delivered = deliver(config, problem, folder, assembled, say, form, outcome.change)
    return Trial(outcome, subspace, chosen.linear, delivered)


def hold_to_first(assembled: Assembled, checked: Checked) -> None:
    """Where requests in sequence are held to their first model: it, and the rows that they removed, for the method."""
    source = checked.first
    if source is None:
        return

    @contextmanager
    def opened() -> Iterator[Any]:
        yield load_from(source, assembled, assembled.dtype).model

    problem = assembled.problem
    assembled.problem = replace(problem, first=opened, splits={**problem.splits, EARLIER: assembled.judged[EARLIER]})


def base_of(config: commands.Unlearn, assembled: Assembled) -> Base | None:
    """None where no base was given."""
    if not config.base:
        return None
    other = load_other(config, config.base, assembled, torch.float32)
    forget = assembled.problem.splits["forget"]
    losses = row_losses(other, other.model, forget).numpy()
    return Base(losses, target_margins(other, other.model, forget))


def add_samples(assembled: Assembled) -> None:
    """Texts of the original's own, other than those a method holds: what the rest of the model is seen by."""
    found = sample(replace(assembled.problem, seed=assembled.problem.seed + SAMPLE_SEED), SAMPLES, SAMPLE_TOKENS)
    if len(found.split):
        assembled.judged["samples"] = replace(found.split, name="samples")


def method_of(name: str, options: object, source: str = "options") -> Method:
    """An entry of the methods, that of `auto` included, with what a recipe or a caller gave for it. Raises
    `InputError`."""
    kind = registry.load("methods", METHOD if name == AUTO else name)
    if isinstance(options, kind):
        return options  # type: ignore[no-any-return]
    if not isinstance(options, Mapping | None):
        raise InputError(f"{source}: expected the options of {kind.__name__}, found {type(options).__name__}.")
    return build(kind, options or {}, source)  # type: ignore[no-any-return]
