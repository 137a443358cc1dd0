"""What holds at some weights: a fitted curvature, and rows' pairs and margins; made once, and again after a restart.

A run that is interrupted loses both, since they are larger than the weights. What it keeps, in `State.carried`, are the
weights at which they were made; a run that goes on makes them again there, to the same numbers, where it needs them.

`State.caches` holds "fit rows" (what the curvature is fitted on), "rows" (of the system) and "tokens" (theirs), which
the method sets, and "fit", "whitening", "fitted at" and "pairs", which are set here.
"""

from collections.abc import Mapping
from dataclasses import replace

from expunge.influence import directions, low_rank
from expunge.influence.directions import Fitting
from expunge.influence.dual import RowPairs
from expunge.influence.margin_pairs import margin_pairs
from expunge.influence.needs import Tokens
from expunge.method import State
from expunge.problem import Problem
from expunge.reference.cache import target_margins

PAIRS_AT = "pairs at"  # the weights at which the pairs of the coming step were taken
FITTED_AT = "fitted at"  # the same of the curvature, where it is not the original
FITTED_FOR = "fitted for"  # the iteration that it was fitted for


def fit(problem: Problem, state: State, options: Fitting, given: Mapping[str, object] | None = None) -> None:
    """Fits the curvature at the current weights, or takes the state of one that was fitted before."""
    fitted = directions.fit_on(problem, state.caches["fit rows"], options, per_layer=True, given=given)
    state.caches |= {"fit": fitted, "whitening": fitted.whitening(release=True)}


def fitted(problem: Problem, state: State, options: Fitting, refit: int) -> bool:
    """The curvature that holds here; whether it was fitted now, for the iteration `refit` (0: for none)."""
    if fresh := refit > int(state.carried.get(FITTED_FOR, 0)):
        state.carried |= {FITTED_AT: problem.snapshot(), FITTED_FOR: refit}
        state.caches["fitted at"] = state.carried[FITTED_AT]
        fit(problem, state, options)
    elif FITTED_AT in state.carried and state.caches.get("fitted at") is None:
        here = problem.snapshot()
        problem.restore(state.carried[FITTED_AT])
        fit(problem, state, options)
        state.caches["fitted at"] = state.carried[FITTED_AT]
        problem.restore(here)
    return fresh


def pairs_here(problem: Problem, state: State) -> tuple[RowPairs, Tokens]:
    """Taken at the current weights, in one pass forward and backward over the rows."""
    whitening = low_rank.coordinates(state, state.caches["whitening"])
    return margin_pairs(problem, state.caches["rows"], state.caches["tokens"], whitening)


def pairs_to_share(problem: Problem, state: State) -> tuple[RowPairs, Tokens]:
    """Taken at the current weights, to be used by what comes after it too.

    Restorations move the weights little, so those after it and the removal go by the same pairs.
    """
    if PAIRS_AT not in state.carried:
        state.carried[PAIRS_AT] = problem.snapshot()
        state.caches["pairs"] = pairs_here(problem, state)
    return _shared(problem, state)


def pairs_at_hand(problem: Problem, state: State) -> tuple[RowPairs, Tokens]:
    """The pairs that a restoration shared, with margins at the current weights; or both, taken now."""
    if PAIRS_AT not in state.carried:
        return pairs_here(problem, state)
    pairs, _ = _shared(problem, state)
    forget_pairs(state)
    now = target_margins(problem, problem.model, state.caches["rows"])
    return pairs, replace(state.caches["tokens"], margins=now)


def forget_pairs(state: State) -> None:
    """Of a restoration that no removal comes after."""
    state.carried.pop(PAIRS_AT, None)
    state.caches.pop("pairs", None)


def _shared(problem: Problem, state: State) -> tuple[RowPairs, Tokens]:
    if "pairs" not in state.caches:
        here = problem.snapshot()
        problem.restore(state.carried[PAIRS_AT])
        state.caches["pairs"] = pairs_here(problem, state)
        problem.restore(here)
    found: tuple[RowPairs, Tokens] = state.caches["pairs"]
    return found
