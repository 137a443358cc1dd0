"""How much of everything a request takes: iterations, restorations, rows; from its size where nothing else is said.

The unit is the share of the forget rows in all rows that are known, those to keep among them. Numbers are ours, from
trials (docs/decisions.md):

- up to a twentieth 4 iterations with one restoration each are enough; above that there are 5 with two, and half as
  many rows to keep as forget rows are held in the same system;
- up to a quarter one metric holds on the way. Above it the curvature is fitted anew at every second iteration, more
  rows are held, and there are more and smaller steps;
- the curvature is fitted on 4 rows for each forget row, 64 to 384 (all that there are in a large request);
- of rows that earlier requests removed, where they and the first model are at hand, twice as many as there are forget
  rows stand in the system, 8 to 200;
- a restoration goes by as many rows as there are forget rows, by twice as many above an eighth and where it leads back
  to the first model, 12 to 128; of the rows to keep among them those that moved farthest of three times as many, which
  are drawn anew and looked at once for each iteration; above an eighth there are 8 iterations;
- up to a quarter up to six rounds of repairs may follow; above it, after ten iterations, they change nothing.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

SMALL, MIDDLE, LARGE = 1 / 20, 1 / 8, 1 / 4
FEWEST_FITTED, MOST_FITTED, FITTED_A_ROW = 64, 384, 4
FEWEST_KEPT, MOST_KEPT = 12, 128
REPAIRS = 6  # rounds
LOOKED = 3  # rows to keep for each that a restoration goes by
MOST_HELD = 200
FEWEST_EARLIER = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Amounts:
    """`share` of the needs, and `restorations`, of each iteration but the last; after how many the curvature is fitted
    anew (`refit_every`, 0: never); rows that are `held`, of `earlier` requests too, that it is `fit` on and that one
    restoration goes by (`keep`); most rounds of `repairs`."""

    iterations: int
    share: float
    restorations: int
    refit_every: int
    held: int
    fit: int
    keep: int
    repairs: int
    earlier: int = 0

    @property
    def beside(self) -> int:
        """Rows that stand in the system with those to forget."""
        return self.held + self.earlier


class Asked(Protocol):
    """Options of a method; None: as the size of the request says."""

    @property
    def iterations(self) -> int | None: ...
    @property
    def share(self) -> float | None: ...
    @property
    def restorations(self) -> int | None: ...
    @property
    def refit_every(self) -> int | None: ...
    @property
    def held_rows(self) -> int | None: ...
    @property
    def earlier_rows(self) -> int | None: ...
    @property
    def fit_rows(self) -> int | None: ...
    @property
    def keep_rows(self) -> int | None: ...
    @property
    def repairs(self) -> int | None: ...


def asked(options: Asked, forget: int, kept: int, lora: bool = False, earlier: int = 0) -> Amounts:
    """What the options say, and the size of the request where they say nothing.

    `lora`: what moves is a LoRA of our own, of which a curvature that is fitted anew moves A too: not unless asked for,
    since there must be room for A's factors.
    """
    usual = amounts(forget, kept, earlier)
    usual = replace(usual, refit_every=0) if lora else usual
    own: dict[str, Any] = {
        "iterations": options.iterations,
        "share": options.share,
        "restorations": options.restorations,
        "refit_every": options.refit_every,
        "held": None if options.held_rows is None else min(options.held_rows, kept),
        "earlier": None if options.earlier_rows is None else min(options.earlier_rows, earlier),
        "fit": options.fit_rows,
        "keep": options.keep_rows,
        "repairs": options.repairs,
    }
    return replace(usual, **{name: value for name, value in own.items() if value is not None})


def amounts(forget: int, kept: int, earlier: int = 0) -> Amounts:
    """For so many forget rows, where so many rows say what is to be kept and so many were removed before."""
    share = forget / (forget + kept) if forget else 0.0
    large = share > LARGE
    return Amounts(
        iterations=10 if large else 8 if share > MIDDLE else 5 if share > SMALL else 4,
        share=0.35 if large else 0.5,
        restorations=1 if share <= SMALL else 2,
        refit_every=2 if large else 0,
        held=min(MOST_HELD if large else forget // 2, kept) if share > SMALL else 0,
        fit=MOST_FITTED if large or not forget else min(MOST_FITTED, max(FEWEST_FITTED, FITTED_A_ROW * forget)),
        repairs=0 if large else REPAIRS,
        keep=min(MOST_KEPT, max(FEWEST_KEPT, 2 * forget if share > MIDDLE or earlier else forget)),
        earlier=min(MOST_HELD, max(FEWEST_EARLIER, 2 * forget), earlier),
    )
