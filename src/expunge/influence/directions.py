"""Directions made of a forget gradient, a noise and a curvature: what second-order methods propose, and its figures.

Below the methods, since several share it. Removing the forget rows from an optimum of the full loss is, to second
order, theta + C^-1 g with C the curvature of the retain loss and g the *ascent* direction of the forget loss (see
`tests/curvatures/test_removal.py`, where this equals retraining). It is also the direction that raises the forget loss
most for a given retain KL, d' C d / 2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, Protocol, TypedDict, cast

import torch
from torch import Tensor

from expunge import registry
from expunge.config.options import build, check_values
from expunge.curvature import (
    Curvature,
    CurvatureState,
    Damping,
    Saved,
    Solution,
    Vector,
    Whitening,
    cosine,
    damping_for,
    inner,
)
from expunge.errors import InputError, NumericalError
from expunge.files import strict_yaml
from expunge.gradients.cotangents import mixed
from expunge.gradients.summed import divergence_gradient, mean_gradient
from expunge.method import Proposal, State
from expunge.optim.step_size import Fixed, LineSearch, RetainBudget, StepRule, ToTargets
from expunge.problem import Problem, Split
from expunge.reference.cache import KeptDistributions, row_losses

Step = Literal["budget", "line_search", "targets", "fixed"]
TO_TARGETS = ("line_search", "targets")


class Fitting(Protocol):
    """Options of a method that names a curvature, and its damping."""

    @property
    def curvature(self) -> str: ...
    @property
    def curvature_options(self) -> dict[str, object]: ...
    @property
    def damping(self) -> float: ...
    @property
    def absolute_damping(self) -> float | None: ...


class Stepping(Fitting, Protocol):
    """Options of a method that proposes by a curvature, and finds its step by a rule."""

    @property
    def step(self) -> Step: ...
    @property
    def budget(self) -> float: ...
    @property
    def step_size(self) -> float | None: ...


def check(options: Stepping, powers: bool = False) -> None:
    """What can be known of the options without a model: numbers, the curvature and its options, the rule for the step.

    `powers`: whether the method takes fractional powers of the curvature. Raises `InputError`. Called on construction,
    so that wrong options are answered before any model is loaded.
    """
    check_values(options)  # type: ignore[arg-type]
    curvature = curvature_of(options.curvature, options.curvature_options)
    if powers and not curvature.has_powers:
        raise InputError(
            f"curvature {options.curvature}: this method takes its fourth root, and it has no spectrum. Use diagonal "
            "or block."
        )
    rule(options)


def rule(options: Stepping, share: float = 1.0) -> StepRule:
    """The rule for the step; `share` of the budget, which is counted from the original. Raises `InputError`."""
    if options.step == "fixed":
        if options.step_size is None:
            raise InputError("step fixed: give step_size, which multiplies the direction.")
        return Fixed(step=options.step_size)
    if options.step == "line_search":
        return LineSearch()
    if options.step == "targets":
        return ToTargets(share=share)
    return RetainBudget(budget=share * options.budget)


class _Added(TypedDict):
    value: float
    relative: float
    by_parameter: Mapping[str, float]
    warning: str


class FitState(TypedDict):
    """What is kept of a `Fit`."""

    state: Saved
    damping: _Added


@dataclass(frozen=True, slots=True)
class Fit:
    """A curvature of the catalogue, fitted to a problem, and the damping that goes with it."""

    name: str
    curvature: Curvature
    problem: Problem
    state: CurvatureState
    damping: Damping

    def solve(self, vector: Vector) -> Solution:
        """(C + damping)^-1 v."""
        return self.curvature.solve(self.problem, self.state, vector, self.damping)

    def power(self, vector: Vector, exponent: float) -> dict[str, Tensor]:
        """(C + damping)^exponent v."""
        return self.curvature.power(self.problem, self.state, vector, exponent, self.damping)

    def whitening(self, release: bool = False) -> Mapping[str, Whitening]:
        """Of a curvature that `has_factors`, by layer; `release`: in place of the factors, not beside them."""
        found = self.curvature.whitening(self.problem, self.state, self.damping, release)
        assert found is not None
        return found

    def bend(self, direction: Vector) -> float | None:
        """d' C d, twice the forecast of the retain KL; None where this curvature makes no such forecast."""
        if not self.curvature.forecasts:
            return None
        return inner(direction, self.curvature.matvec(self.problem, self.state, direction))

    def figures(self) -> dict[str, object]:
        """For the record."""
        return {
            "curvature": registry.title(self.name),
            "curvature_options": asdict(self.curvature),  # type: ignore[call-overload]
            "damping": self.damping.value,
            "relative_damping": self.damping.relative,
            "mean_curvature": self.state.mean,
            "median_curvature": self.state.median,
            "warning": self.damping.warning,
            "examples": self.state.examples,
            "tokens": self.state.tokens,
            "parameters_alive": len(self.state.alive),
        } | self.state.notes

    def state_dict(self) -> FitState:
        """What is carried from phase to phase, and kept in checkpoints: the options that made it are the method's."""
        return {"state": self.state.state_dict(), "damping": cast(_Added, asdict(self.damping))}


def fit_from(problem: Problem, options: Fitting, saved: FitState) -> Fit:
    """A fit as `Fit.state_dict` left it."""
    curvature = curvature_of(options.curvature, options.curvature_options)
    return Fit(options.curvature, curvature, problem, CurvatureState(**saved["state"]), Damping(**saved["damping"]))


def curvature_of(name: str, options: Mapping[str, object] | None) -> Curvature:
    """An entry of the curvatures with options. Raises `InputError` for unknown names, keys and values.

    Values that are texts are read as YAML: the command line, which does not know the keys, has nothing but texts.
    """
    if not isinstance(options, Mapping | None):
        raise InputError(
            f"options of curvature {name}: expected keys and values ({{labels: data}}), found {type(options).__name__}."
        )
    source = f"curvature {name}"
    values = {
        key: strict_yaml.parse(value, source) if isinstance(value, str) else value
        for key, value in (options or {}).items()
    }
    made: Curvature = build(registry.load("curvatures", name), values, source)
    return made


def fit(problem: Problem, options: Stepping, per_layer: bool = False) -> Fit:
    """Fits the curvature that the options name, at the current weights, on the rows of the "curvature" split.

    `per_layer`: the damping is relative to each parameter's own mean. Raises `InputError` (layers without gradients,
    damping not above 0).
    """
    return fit_on(problem, problem.splits["curvature"], options, per_layer)


def fit_on(
    problem: Problem,
    split: Split,
    options: Fitting,
    per_layer: bool = False,
    given: Mapping[str, object] | None = None,
) -> Fit:
    """The same on rows of a split; or of a state that is `given` (as `CurvatureState.state_dict` has it), without."""
    curvature = curvature_of(options.curvature, options.curvature_options)
    state = curvature.init(problem, split) if given is None else CurvatureState(**cast(Saved, given))
    damping = damping_for(state, options.damping, options.absolute_damping, per_layer)
    return Fit(options.curvature, curvature, problem, state, damping)


def passes_of(options: Stepping, problem: Problem, fits: float, solves: int, products: int = 1) -> float:
    """Passes over the "curvature" split for so many fits, solves and products, for plans."""
    rows = len(problem.splits["curvature"].rows) if "curvature" in problem.splits else 0
    passing = curvature_of(options.curvature, options.curvature_options).cost(rows)
    return fits * passing.fit + solves * passing.solve + products * passing.product


def whitened_bytes_of(options: Fitting) -> Callable[[Mapping[str, torch.Size], Mapping[str, str]], int]:
    """The same of one whose factors are released, and where it is known which layers share an input."""
    return curvature_of(options.curvature, options.curvature_options).whitened_bytes


def bytes_of(options: Fitting) -> Callable[[Mapping[str, torch.Size]], int]:
    """What the curvature of the options takes, from the shapes of what may move, for plans."""
    return curvature_of(options.curvature, options.curvature_options).bytes


def ascent(problem: Problem, state: State, fitted: Fit, stop_at_targets: bool) -> Proposal:
    """(C + damping)^-1 g, g the gradient of the mean loss of the forget rows: uphill on the forget loss.

    With `stop_at_targets` and known targets, rows that cost their target or more are left out. Raises
    `NumericalError` where no row is left or the gradient is not finite.
    """
    forget = problem.splits["forget"]
    rows = None
    if stop_at_targets and state.targets is not None:
        below = row_losses(problem, problem.model, forget) < state.targets.cpu().double()
        rows = below.nonzero()[:, 0].tolist()
        if not rows:
            raise NumericalError("every forget row is at its target")
    gradient = mean_gradient(problem, forget, "row", rows)
    if not all(torch.isfinite(part).all() for part in gradient.values()):
        raise NumericalError("the gradient of the forget rows is not finite")
    solution = fitted.solve(gradient)
    used = len(forget.rows) if rows is None else len(rows)
    notes = {"forget_rows": used} | _solved(fitted, solution)
    return _proposal(problem, fitted, solution.value, gradient, solution.value, notes)


def restoration(problem: Problem, fitted: Fit, splits: Sequence[tuple[Split, KeptDistributions]]) -> Proposal:
    """-(C + damping)^-1 k, k the gradient of KL(original, current) per token on rows to keep: back to the original.

    A direction up the forget loss is chosen at the original, where k vanishes; after a step it does not, and C says how
    to undo what the retain rows feel of it. `splits` with the original's distributions on them.
    """
    gradient = divergence_gradient(problem, splits)
    if not all(torch.isfinite(part).all() for part in gradient.values()):
        raise NumericalError("the gradient of the retain KL is not finite")
    solution = fitted.solve(gradient)
    direction = {name: -part for name, part in solution.value.items()}
    return Proposal(
        direction=direction,
        retain_slope=inner(gradient, direction),
        retain_bend=fitted.bend(direction),
        notes=fitted.figures() | {"moving": len(direction)} | _solved(fitted, solution),
    )


def shaped_noise(problem: Problem, fitted: Fit, draw: int) -> Proposal:
    """(C + damping)^(-1/4) n, n standard normal from the problem's seed and the number of the `draw`."""
    generator = torch.Generator().manual_seed(mixed(problem.seed, draw))
    noise = {
        name: torch.randn(tensor.shape, generator=generator).to(
            tensor.device, torch.promote_types(tensor.dtype, torch.float32)
        )
        for name, tensor in problem.movable.items()
    }
    alive = {name: part for name, part in noise.items() if name in fitted.state.alive}
    direction = fitted.power(alive, -0.25)
    gradient = mean_gradient(problem, problem.splits["forget"], "row")
    return _proposal(problem, fitted, direction, gradient, fitted.solve(gradient).value, {})


def _proposal(
    problem: Problem,
    fitted: Fit,
    direction: dict[str, Tensor],
    gradient: Vector,
    uphill: Vector,
    notes: Mapping[str, object],
) -> Proposal:
    """The direction with its slopes and bend, and the cosines of forget and retain gradients, plain and in the metric
    of the damped inverse; `uphill` is the solve of the forget gradient."""
    retain = mean_gradient(problem, problem.splits.get("retain", problem.splits["curvature"]), "token")
    solved = fitted.solve(retain).value
    scale = (inner(retain, solved) * inner(gradient, uphill)) ** 0.5
    figures = {
        "cosine": cosine(gradient, retain),
        "cosine_in_metric": inner(gradient, solved) / scale if scale else 0.0,
        "moving": len(direction),
    }
    return Proposal(
        direction=direction,
        forget_slope=inner(gradient, direction),
        retain_slope=inner(retain, direction),
        retain_bend=fitted.bend(direction),
        notes=fitted.figures() | figures | dict(notes),
    )


def _solved(fitted: Fit, solution: Solution) -> dict[str, object]:
    """How a solve went, for the record, with a warning where it ended early.

    Raises `NumericalError` where what came out is no direction to take.
    """
    if solution.status == "broke down":
        raise NumericalError(
            f"the solve through the curvature broke down after {solution.iterations} iterations (likely causes: too "
            "little damping, or weights that are broken already)"
        )
    figures: dict[str, object] = {
        "solve": solution.status,
        "residual": solution.residual,
        "iterations": solution.iterations,
    }
    if solution.status == "solved":
        return figures
    said = (
        f"the solve through the curvature ended after {solution.iterations} products at a residual of "
        f"{solution.residual or 0:.2g} of what was asked; more iterations or more damping bring it nearer"
    )
    return figures | {"warning": "; ".join(filter(None, (fitted.damping.warning, said)))}
