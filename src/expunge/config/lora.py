"""A LoRA as a subspace: `--subspace lora:r=16,alpha=32,targets=q_proj+v_proj`, in Python `Lora(r=16, ...)`.

Everything behind the configuration knows it by its text, of which there is one for each LoRA; so it stands in records,
identities and checkpoints as the other subspaces do. Imports nothing heavy.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from expunge import registry
from expunge.errors import InputError

KIND = "lora"
RANK = 32
EXAMPLE = "Write lora:r=16,alpha=32,targets=q_proj+v_proj, or less of it."


@dataclass(frozen=True, slots=True)
class Lora:
    """What moves is B A of rank `r`, added with scale `alpha` / `r` to the weights of linear layers.

    `alpha` none: as `r`, so a scale of 1. `targets`: names of layers or ends of names, as in peft; none: every linear
    layer but the output head. Raises `InputError` for values that make no LoRA.
    """

    r: int = RANK
    alpha: float | None = None
    targets: Sequence[str] = ()

    def __post_init__(self) -> None:
        if isinstance(self.r, bool) or not isinstance(self.r, int) or self.r < 1:
            raise InputError(f"--subspace lora: r must be a whole number above 0, found {self.r!r}. {EXAMPLE}")
        alpha = self.r if self.alpha is None else self.alpha
        if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not 0 < alpha < float("inf"):
            raise InputError(f"--subspace lora: alpha must be a number above 0, found {self.alpha!r}. {EXAMPLE}")
        targets = self.targets
        if isinstance(targets, str) or not all(isinstance(one, str) and one and not _odd(one) for one in targets):
            raise InputError(f"--subspace lora: targets must be names of layers, found {targets!r}. {EXAMPLE}")
        object.__setattr__(self, "alpha", float(alpha))
        object.__setattr__(self, "targets", tuple(dict.fromkeys(targets)))

    def __str__(self) -> str:
        said = [f"r={self.r}"] if self.r != RANK else []
        said += [f"alpha={self.alpha:.15g}"] if self.alpha != self.r else []
        said += [f"targets={'+'.join(self.targets)}"] if self.targets else []
        return f"{KIND}:{','.join(said)}" if said else KIND

    def holds(self, layer: str) -> bool:
        """Whether a linear layer of that name is one of its targets."""
        return not self.targets or any(layer == one or layer.endswith(f".{one}") for one in self.targets)


def is_lora(subspace: str) -> bool:
    """Whether a subspace is a LoRA of our own, with settings or without."""
    return subspace == KIND or subspace.startswith(f"{KIND}:")


def of(subspace: str) -> Lora:
    """The LoRA that a text means. Raises `InputError`."""
    given: dict[str, Any] = {}
    for part in filter(None, subspace.removeprefix(KIND).removeprefix(":").split(",")):
        name, _, value = part.partition("=")
        if name in given:
            raise InputError(f"--subspace {subspace}: {name} stands there twice. {EXAMPLE}")
        given[name] = value.split("+") if name == "targets" else _number(value)
    return made(given, f"--subspace {subspace}")


def made(given: Mapping[str, Any], source: str) -> Lora:
    """The LoRA of a mapping, as a recipe may have it. Raises `InputError`."""
    known = [field.name for field in fields(Lora)]
    for name in given:
        if name not in known:
            raise InputError(f"{source}: a LoRA has no {str(name)!r}{registry.suggestion(str(name), known)} {EXAMPLE}")
    return Lora(**given)


def text(value: Any, source: str) -> Any:
    """What stands for a subspace in a configuration: of a LoRA its text, whatever form it was given in."""
    if isinstance(value, Mapping):
        return str(made(value, source))
    if isinstance(value, Lora) or (isinstance(value, str) and is_lora(value)):
        return str(of(str(value)))
    return value


def _number(value: str) -> Any:
    for kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            continue
    return value


def _odd(name: str) -> bool:
    return any(sign in name for sign in ",+= ")
