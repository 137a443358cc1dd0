"""Which methods a comparison runs: the recipe's variants or the catalogue, as far as the rows have what they need."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from expunge import registry
from expunge.config import commands
from expunge.errors import InputError
from expunge.intake.sets import Checked, check, lacking
from expunge.loop import trial

Say = Callable[[str], None]
RESERVED = ("original", "retrained")


@dataclass(frozen=True, slots=True)
class Variant:
    """A method with options under a name of its own. `budgeted`: takes the comparison's budget, not its own steps."""

    label: str
    method: str
    options: Any
    budgeted: bool


def variants(config: commands.Compare) -> list[Variant]:
    """The methods of a comparison. Raises `InputError` for unknown names and options."""
    given = config.variants or {}
    if not isinstance(given, Mapping) or not all(isinstance(one, Mapping | None) for one in given.values()):
        raise InputError("variants: expected names with options, such as `npo_low_beta: {method: npo, beta: 0.05}`.")
    found = []
    for label in dict.fromkeys(config.methods or tuple(given) or registry.names("methods")):
        if label in RESERVED:
            raise InputError(f"variants: {label!r} is the name of a line of its own. Choose another name.")
        settings = dict(given.get(label) or {})
        name = str(settings.pop("method", label))
        own_steps = settings.pop("own_steps", False)
        chosen = trial.method_of(name, settings, f"variants: {label}")
        found.append(Variant(registry.title(str(label)), name, chosen, bool(config.tokens and not own_steps)))
    return found


def fitting(config: commands.Compare, chosen: Sequence[Variant], say: Say) -> tuple[list[Variant], Checked]:
    """The variants for which the rows have what they need, and the rows; without the others where none was asked for by
    name. Raises `InputError`."""
    if config.methods or config.variants:
        for variant in chosen:
            checked = check(config, variant.options.needs)
        return list(chosen), checked
    checked, fit = check(config), []
    for variant in chosen:
        lack = lacking(variant.options.needs, checked.parts, bool(config.base))
        if lack is None:
            fit.append(variant)
        else:
            say(f"{variant.label}: left out, it needs {lack.flags}")
    return fit, checked
