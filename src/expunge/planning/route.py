"""`--method auto`: which way a request takes, and why, from sizes alone.

- Retraining, which is exact, where `--base`, `--train` and `--train-config` say how, and either it takes at most
  `ABOUT_AS_LITTLE` times the row passes of unlearning, or more than `LARGE` of what was trained in is to go, where
  unlearning no longer holds what nobody gives (docs/results/margin_newton.md).
- Else margin_newton; where that is beyond its limit, this is said.

Options are margin_newton's, so giving any settles it; so do a subspace, a curvature and a form to save in, which
retraining could not heed. Row passes are planned and not timed, so the same command takes the same way on any machine.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from expunge.config.commands import Unlearning
from expunge.config.flags import AUTO, METHOD
from expunge.config.options import build
from expunge.config.recipes import read_yaml
from expunge.influence.amounts import LARGE
from expunge.intake.sets import Checked
from expunge.loop import retraining, twins
from expunge.loop.training import Training
from expunge.loop.trial import method_of
from expunge.model.without_data import NotFollowed
from expunge.planning.estimate import Estimator
from expunge.planning.rows import Rows
from expunge.runs.distributed import Runtime

Config = TypeVar("Config", bound=Unlearning)
ABOUT_AS_LITTLE = 1.5  # times what unlearning takes: retraining is worth that much more, being exact (our choice)


@dataclass(frozen=True, slots=True)
class Route:
    """How to train anew, or None to unlearn; and why, in a line."""

    training: Training | None
    reason: str


def settled(config: Config, checked: Checked, say: Callable[[str], object]) -> tuple[Config, Training | None]:
    """The configuration with the method in place of `auto`, and how to train anew where that is the way.

    Raises `InputError` for settings of a training that cannot be.
    """
    if config.method != AUTO:
        return config, None
    found = _route(config, checked)
    say(f"method: {retraining.NAME if found.training else METHOD} ({found.reason})")
    if found.training is None and (share := share_of(checked)) is not None and share > LARGE:
        say(f"warning: {beyond(share)} Retraining would: give --base, --train and --train-config.")
    return (replace(config, options=None), found.training) if found.training else (replace(config, method=METHOD), None)


def _route(config: Unlearning, checked: Checked) -> Route:
    if heeded := _settles(config):
        return Route(None, f"{heeded} was given, which retraining could not heed")
    if not (config.base and config.train_config and "train" in checked.sets):
        return Route(None, "retraining is weighed where --base, --train and --train-config say how")
    training = build(Training, read_yaml(config.train_config), config.train_config)
    twins.check_start(checked, training)
    unlearning, anew = _row_passes(config, checked, training)
    return decided(training, unlearning, anew, share_of(checked))


def _settles(config: Unlearning) -> str:
    """The flag that retraining could not heed, if there is one."""
    default = Unlearning()
    asked: dict[str, Any] = {name: getattr(config, name) for name in ("subspace", "save_as", "curvature")}
    given = [f"--{name.replace('_', '-')} {value}" for name, value in asked.items() if value != getattr(default, name)]
    if method_of(METHOD, config.options) != method_of(METHOD, None):
        given.append("--options")
    return given[0] if given else ""


def decided(training: Training, unlearning: float | None, anew: float, share: float | None) -> Route:
    """By row passes of both (of unlearning None: not known), and by the share of what is to go."""
    if share is not None and share > LARGE:
        return Route(training, beyond(share))
    if unlearning is None:
        return Route(None, "what unlearning would take cannot be told without the weights")
    figures = f"{anew:,.0f} row passes beside {unlearning:,.0f} of unlearning"
    if anew <= ABOUT_AS_LITTLE * unlearning:
        return Route(training, f"it is exact, and takes {figures}")
    return Route(None, f"retraining would take {figures}")


def beyond(share: float) -> str:
    """Why a request is too large to be unlearned well."""
    return (
        f"{share:.0%} of the known rows that were trained in are to go; where more than {LARGE:.0%} do, unlearning "
        "does not hold what no file gives."
    )


def share_of(checked: Checked) -> float | None:
    """Of the rows trained in, as far as they are known, how many are to be forgotten."""
    sets, forget = checked.sets, len(checked.forget)
    known = len(sets["train"]) if "train" in sets else forget + len(sets["retain"]) if "retain" in sets else 0
    return forget / known if known else None


def _row_passes(config: Unlearning, checked: Checked, training: Training) -> tuple[float | None, float]:
    """Of unlearning, at most, and of training anew."""
    rows, shape = Rows.before_loading(config, checked)
    estimator = Estimator(config, shape, rows, Runtime(config.device), checked.model.stored_dtype)
    kept = twins.rendered_without(checked.sets["train"].rows, checked.forget, rows.rendering, rows.tokenizer)
    try:
        unlearning = estimator.row_passes(method_of(METHOD, config.options))
    except NotFollowed:
        unlearning = None
    return unlearning, estimator.row_passes_anew(kept, training)
