"""What a request takes of a problem's rows: how many of which are drawn, passes over them, and what is kept of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch

from expunge.config.commands import EARLIER
from expunge.gradients.cotangents import mixed
from expunge.influence import directions, dual
from expunge.influence.amounts import Amounts, Asked, asked
from expunge.influence.directions import Fitting
from expunge.problem import Problem, Split
from expunge.reference.kept import drawn, rows_to_keep, to_sample


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

    def fit(self, kept: Split) -> Split:
        """What the curvature is fitted on."""
        return drawn(kept, self.amounts.fit, self.problem.seed, "fit")

    def looked(self, kept: Split) -> list[Split]:
        """What the restorations of each iteration choose their rows from, a draw of its own."""
        count = self.amounts.iterations - 1 + self.options.durable_rounds if self.amounts.restorations else 0
        return [self._looked(kept, number) for number in range(count)]

    def passes(self, times: Mapping[str, float]) -> dict[str, float]:
        """Of the rows in the system, a restoration's and the curvature's, as shares of splits that there are."""
        splits, rows = self.problem.splits, rows_to_keep(self.problem)
        name = next((one for one in ("retain", "unseen") if one in splits), "forget")
        looked = self._looked(rows, 0) if rows else Split("none", (), ())
        count = {
            "keep": len(looked.windows) * min(1.0, self.amounts.keep / max(1, len(looked))),
            "looked": len(looked.windows),
            "fit": len(self.fit(rows).windows) if rows else 0,
            "held": self.amounts.beside,
        }
        others = sum(times.get(what, 0.0) * many for what, many in count.items()) / len(splits[name].windows)
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

    def _looked(self, kept: Split, number: int) -> Split:
        return drawn(kept, self.amounts.looked, mixed(self.problem.seed, number + 1), f"keep {number}")

    def _amounts(self, kept: int) -> Amounts:
        forget, earlier = (len(self.problem.splits.get(name, ())) for name in ("forget", EARLIER))
        return asked(self.options, forget, kept, self.problem.adapter, earlier)
