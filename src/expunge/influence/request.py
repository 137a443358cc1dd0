"""What a request takes of a problem's rows: how many of which are drawn, passes over them, and what is kept of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from expunge.config.commands import EARLIER
from expunge.gradients.cotangents import mixed
from expunge.influence import directions, dual
from expunge.influence.amounts import LOOKED, Amounts, Asked, asked
from expunge.influence.directions import Fitting
from expunge.problem import Problem, Split
from expunge.reference.kept import drawn, rows_to_keep, to_sample

OTHERS = 1 << 21  # away from the seeds that other rows are drawn by


class Options(Asked, Fitting, Protocol):
    """Of a method whose rows stand in one system."""

    @property
    def durable_rounds(self) -> int: ...


@dataclass(frozen=True)
class Request:
    """Of a problem divided as the method asks; all rows are drawn by its seed. Nothing here asks the model."""

    options: Options
    problem: Problem

    @cached_property
    def kept(self) -> Split:
        """Rows that say what is to be kept; what stands for the original's own text where there are none."""
        return rows_to_keep(self.problem) or to_sample(self.problem)

    @cached_property
    def amounts(self) -> Amounts:
        """What the size of the request says, but for what an option says."""
        return self._amounts(len(self.kept))

    @property
    def rounds(self) -> int:
        """Durable ones; none where there are no two rows to deal."""
        return self.options.durable_rounds if len(self.problem.splits["forget"]) > 1 else 0

    def fit(self, kept: Split) -> Split:
        """What the curvature is fitted on."""
        return drawn(kept, self.amounts.fit, self.problem.seed, "fit")

    def looked(self, kept: Split) -> list[tuple[Split, list[Split]]]:
        """Of each iteration the rows to keep that its restorations choose theirs from, and the never-seen rows of each
        restoration; draws of their own."""
        count = self.amounts.iterations + self.rounds if self.amounts.restorations else 0
        return [self._looked(kept, place) for place in range(count)]

    def chosen(self, kept: Split) -> int:
        """How many of the rows of a restoration are rows to keep, and no never-seen ones: as in all that are kept."""
        return round(min(self.amounts.keep, len(kept)) * (1 - self._unseen / len(kept)))

    def passes(self, times: Mapping[str, float]) -> dict[str, float]:
        """Of the rows in the system, a restoration's and the curvature's, as shares of splits that there are."""
        splits = self.problem.splits
        name = next((one for one in ("retain", "unseen") if one in splits), "forget")
        others = sum(times.get(what, 0.0) * many for what, many in self._windows.items()) / len(splits[name].windows)
        return {"forget": times.get("forget", 0.0)} | ({name: others} if name != "forget" else {})

    @property
    def tokens(self) -> int:
        """Of the rows in the system, those beside the forget rows being as long as these; of an undivided problem."""
        splits = self.problem.splits
        if "forget" not in splits:
            return 0  # a curvature for requests to come
        kept = sum(len(splits[name]) for name in ("retain", "unseen") if name in splits)
        forget, beside = splits["forget"], self._amounts(kept or len(to_sample(self.problem))).beside
        return round(forget.tokens * (1 + beside / max(1, len(forget))))

    def bytes(self, shapes: Mapping[str, torch.Size]) -> int:
        """Of the curvature and of the rows' pairs; A of our own LoRA has none, unless it is fitted again once B has
        moved."""
        dead = ".lora_A." if self.problem.adapter and not self.amounts.refit_every else None
        alive = {name: shape for name, shape in shapes.items() if dead is None or dead not in name}
        whitened = directions.whitened_bytes_of(self.options)(alive, self.problem.shared)
        return whitened + self.tokens * dual.bytes_by_token(alive, self.problem.shared)

    def products(self, made: bool, back: bool, shapes: Mapping[str, torch.Size]) -> float:
        """FLOPs beside the passes (see `dual.products`)."""
        return dual.products(self.problem, self.amounts.beside, made, back, shapes)

    @property
    def _unseen(self) -> int:
        return len(self.problem.splits.get("unseen", ()))

    def _looked(self, kept: Split, place: int) -> tuple[Split, list[Split]]:
        known, seed = len(kept) - self._unseen, self.problem.seed
        own, many = kept.of(range(known), "keep"), self.chosen(kept)
        others = kept.of(range(known, len(kept)), "never seen")
        places = range(place * self.amounts.restorations, (place + 1) * self.amounts.restorations)
        rest = min(self.amounts.keep, len(kept)) - many
        apart = [drawn(others, rest, mixed(seed, OTHERS + each), f"never seen {each}") for each in places]
        return drawn(own, LOOKED * many, mixed(seed, place + 1), f"keep {place}"), apart if rest else []

    @cached_property
    def _windows(self) -> dict[str, float]:
        """Of what one restoration goes by, of what an iteration looks at, of the fit and of the rows that are held."""
        found, kept = {"held": float(self.amounts.beside)}, rows_to_keep(self.problem)
        if kept is None:
            return found
        looked, others = self._looked(kept, 0)
        share = min(1.0, self.chosen(kept) / len(looked)) if len(looked) else 0.0
        found["keep"] = share * len(looked.windows) + (len(others[0].windows) if others else 0)
        found["looked"] = float(len(looked.windows)) if share < 1 else 0.0
        return found | {"fit": float(len(self.fit(kept).windows))}

    def _amounts(self, kept: int) -> Amounts:
        forget, earlier = (len(self.problem.splits.get(name, ())) for name in ("forget", EARLIER))
        return asked(self.options, forget, kept, self.problem.adapter, earlier)
