"""A whole plan: every method that was asked for, retraining, and what fits into how much memory."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from expunge import registry
from expunge.config.commands import Plan
from expunge.config.flags import AUTO, METHOD
from expunge.config.options import build
from expunge.config.recipes import read_yaml
from expunge.errors import InputError
from expunge.intake.sets import lacking
from expunge.loop.training import Training
from expunge.loop.trial import method_of
from expunge.loop.twins import rendered_without
from expunge.method import Method
from expunge.model.without_data import NotFollowed
from expunge.planning.estimate import Cost, Estimate, Estimator
from expunge.planning.route import share_of
from expunge.planning.rows import Rows
from expunge.planning.table import gib
from expunge.runs.distributed import Runtime
from expunge.runs.memory import USABLE

if TYPE_CHECKING:
    from transformers import PreTrainedConfig


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan for people and for programs: it prints as the lines of `expunge plan`.

    `estimate`: row passes, FLOPs, bytes and seconds of each method and of retraining; None where the model cannot be
    followed without its weights, which a line then says.
    """

    lines: tuple[str, ...]
    estimate: Estimate | None

    def __str__(self) -> str:
        return "\n".join(self.lines)


def estimate(config: Plan, shape: "PreTrainedConfig", rows: Rows) -> Estimate:
    """Costs from the model's configuration and the user's rows. Raises `InputError` for wrong options."""
    named = METHOD if config.method == AUTO else config.method
    asked = registry.names("methods") if named == "all" else (named,)
    methods = {registry.title(name): _method(config, name) for name in asked}
    training = Training()
    if config.train_config:
        training = build(Training, read_yaml(config.train_config), config.train_config)
    estimator = Estimator(config, shape, rows, Runtime(config.device), rows.checked.model.stored_dtype)
    lacks = {name: lacking(method.needs, rows.checked.parts, bool(config.base)) for name, method in methods.items()}
    missing = {name: lack.flags for name, lack in lacks.items() if lack}
    possible = {name: method for name, method in methods.items() if name not in missing}
    costs, refused = _costs(estimator, possible, config.method == "all")
    retraining = None
    if "train" in rows.checked.sets:
        given = rows.checked.sets["train"].rows
        kept = rendered_without(given, rows.checked.forget, rows.rendering, rows.tokenizer)
        retraining = estimator.retraining(kept, training)
        missing |= {} if config.base else {"retraining": "--base"}
    room = {}
    if costs:
        first = possible[METHOD if any(cost.name == METHOD for cost in costs) else costs[0].name]
        memory = int(config.memory * 2**30)
        sizes = {
            f"{config.memory:g} GB": (memory, int(USABLE * memory)),
            f"this machine's free {gib(estimator.free)}": (estimator.free, estimator.size),
        }
        room = {name: estimator.room(first, *both) for name, both in sizes.items()}
    return Estimate(
        costs, missing, refused, retraining, room, estimator.interpreter, share_of(rows.checked), estimator.attacks()
    )


def _costs(
    estimator: Estimator, methods: Mapping[str, Method], several: bool
) -> tuple[tuple[Cost, ...], dict[str, str]]:
    """Of each method; where there are several, what one of them says that cannot work on this model, by name."""
    costs: list[Cost] = []
    refused: dict[str, str] = {}
    for name, method in methods.items():
        try:
            costs.append(estimator.unlearning(name, method))
        except InputError as error:
            if not several or isinstance(error, NotFollowed):
                raise
            refused[name] = str(error)
    return tuple(costs), refused


def _method(config: Plan, name: str) -> Method:
    """A method with its default options, or with the recipe's where they are for it."""
    theirs = name == (METHOD if config.method == "all" else config.method)
    return method_of(name, config.options if theirs and config.options is not None else {})
