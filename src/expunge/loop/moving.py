"""What of the model may move: the subspace that was asked for, and of it what the method moves."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from expunge.method import Needs
from expunge.model import choice
from expunge.model.choice import Choice
from expunge.model.layers import shared_inputs, unfit
from expunge.model.select import Subspace, moving, opened, select
from expunge.model.select import choose as subspace_for
from expunge.problem import Problem
from expunge.runs import memory


class Moving(NamedTuple):
    """The subspace, and which linear layers of it, where the method moves those alone."""

    subspace: Subspace
    linear: Choice | None


def choose(
    problem: Problem,
    needs: Needs,
    asked: str,
    linear: str | None,
    say: Callable[[str], None],
    kept: bool = False,
    because: str = "",
) -> Moving:
    """Freezes everything else, by the size of the memory where that was left to us; `linear`: layers that were
    chosen before, in place of the method's own; `kept`: a LoRA is to be kept as an adapter; `because`: why what is
    asked for was chosen before. Raises `InputError`."""
    device, found, odd = problem.runtime.device, None, dict[str, str]()
    model, asked, reason = opened(problem.model, asked, needs.linear is not None, device)
    if needs.linear:
        total = sum(parameter.numel() for parameter in model.parameters())
        name = subspace_for(asked, total, device)[0]
        wanted = replace(needs.linear, which=linear or needs.linear.which)
        odd = unfit(model)
        shared = shared_inputs(model)
        left = memory.usable(device) - sum(tensor.nbytes for tensor in model.parameters())
        found = choice.choose(model, wanted, moving(model, name), left, shared, odd, needs.tokens(problem))
    subspace = select(model, asked, device, needs.layers, found.which if found else "", odd, kept)
    subspace = replace(subspace, reason=because or reason or subspace.reason)
    say(f"subspace: {subspace.name} ({subspace.reason})")
    if found:
        taken = f"{found.bytes / 2**30:.2f} GiB for their curvature and the rows in them"
        say(f"layers: {found.which} ({found.layers} linear layers, {taken})")
    for name, reason in list(odd.items())[:1]:
        say(f"layers: {len(odd)} have no two factors and stay as they are, such as {name} ({reason})")
    return Moving(subspace, found)
