"""A curvature and the pairs of rows, each as taken at some weights, for the steps that still go by them.

Both cost a pass over rows, so steps share them. What `State.carried` names are the weights at which they were taken; a
run that goes on takes them again there, and so ends where it would have ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from expunge.influence import directions, low_rank
from expunge.influence.directions import Fitting
from expunge.influence.dual import RowPairs
from expunge.influence.margin_pairs import margin_pairs
from expunge.influence.needs import Tokens
from expunge.method import State
from expunge.problem import Problem
from expunge.reference.cache import target_margins

AT = "pairs at"  # in `State.carried`: the weights at which the pairs of the coming step were taken
FITTED_AT = "fitted at"  # the same of the curvature, where it is not the original
FITTED_FOR = "fitted for"  # the iteration that it was fitted for


@dataclass(frozen=True, slots=True)
class Linearised:
    """Of a problem whose state has "fit rows", "rows" and "tokens" among its caches. `options` name the curvature."""

    problem: Problem
    state: State
    options: Fitting

    def fit(self, given: Mapping[str, Any] | None = None) -> None:
        """Fits the curvature at the current weights, or takes the state of one that was fitted before."""
        fitted = directions.fit_on(
            self.problem, self.state.caches["fit rows"], self.options, per_layer=True, given=given
        )
        self.state.caches |= {"fit": fitted, "whitening": fitted.whitening(release=True)}

    def fitted(self, refit: int) -> bool:
        """The curvature that holds here; whether it was fitted now, for the iteration `refit` (0: for none)."""
        carried, caches = self.state.carried, self.state.caches
        if fresh := refit > int(carried.get(FITTED_FOR, 0)):
            carried |= {FITTED_AT: self.problem.snapshot(), FITTED_FOR: refit}
            caches["fitted at"] = carried[FITTED_AT]
            self.fit()
        elif FITTED_AT in carried and caches.get("fitted at") is None:
            here = self.problem.snapshot()
            self.problem.restore(carried[FITTED_AT])
            self.fit()
            caches["fitted at"] = carried[FITTED_AT]
            self.problem.restore(here)
        return fresh

    def figures(self) -> dict[str, Any]:
        """Of the curvature, for the record."""
        figures: dict[str, Any] = self.state.caches["fit"].figures()
        return figures

    def pairs(self) -> tuple[RowPairs, Tokens]:
        """Taken at the current weights, in one pass forward and backward over the rows."""
        caches = self.state.caches
        whitening = low_rank.coordinates(self.state, caches["whitening"])
        return margin_pairs(self.problem, caches["rows"], caches["tokens"], whitening)

    def taken(self) -> tuple[RowPairs, Tokens]:
        """Pairs and margins at the current weights, to be used by what comes after it too.

        Restorations move the weights little, so the removal after them goes by the same pairs.
        """
        if not self.has_pairs:
            self.state.carried[AT] = self.problem.snapshot()
            self.state.caches["pairs"] = self.pairs()
        return self._kept()

    @property
    def has_pairs(self) -> bool:
        """Whether there are pairs that were taken for what comes after."""
        return AT in self.state.carried

    def at_hand(self) -> tuple[RowPairs, Tokens]:
        """Those pairs, with margins at the current weights, and for the last time; or both, taken now."""
        if not self.has_pairs:
            return self.pairs()
        pairs, _ = self._kept()
        self.forget_pairs()
        now = target_margins(self.problem, self.problem.model, self.state.caches["rows"])
        return pairs, replace(self.state.caches["tokens"], margins=now)

    def forget_pairs(self) -> None:
        """Nothing comes after that would use them."""
        self.state.carried.pop(AT, None)
        self.state.caches.pop("pairs", None)

    def _kept(self) -> tuple[RowPairs, Tokens]:
        if "pairs" not in self.state.caches:
            here = self.problem.snapshot()
            self.problem.restore(self.state.carried[AT])
            self.state.caches["pairs"] = self.pairs()
            self.problem.restore(here)
        found: tuple[RowPairs, Tokens] = self.state.caches["pairs"]
        return found
