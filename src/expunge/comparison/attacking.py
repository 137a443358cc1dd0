"""Attacks on the models of a comparison: of the original and the first twin once, of each cell beside them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

from msgspec.structs import asdict

from expunge.attack import Level
from expunge.evaluation import attacked, under_attack
from expunge.evaluation.attacked import Readings
from expunge.problem import Problem, Split
from expunge.reporting import content, finding
from expunge.runs.checkpoint import Checkpoints
from expunge.scoring.evidence import Evidence


@dataclass(slots=True)
class Attacking:
    """`judged`: the splits that models are judged on; `load`: the problem around the original and, where there is one,
    the retrained model, by name; `names`: of the forget rows; `key`: of what all cells share."""

    level: Level
    judged: Mapping[str, Split]
    load: Mapping[str, Callable[[], Problem]]
    names: Sequence[str]
    checkpoints: Checkpoints
    key: str
    known: dict[str, Readings] = field(default_factory=dict)

    def results(self, unlearned: Problem, evidence: Mapping[str, Evidence]) -> tuple[content.Attack, ...]:
        """One entry an attack, as a record has them, without names of rows; none at level quick."""
        if self.level == "quick":
            return ()
        original = cache(self.load["original"])
        alone = "retrained" not in self.load
        readings = {"unlearned": attacked.run(unlearned, self.judged, self.level, original, alone=alone)}
        readings["original"] = self._kept("original", lambda: attacked.run_beside(original(), self.judged, self.level))
        if not alone:
            twin = self.load["retrained"]
            readings["retrained"] = self._kept(
                "retrained", lambda: attacked.run(twin(), self.judged, self.level, original, alone=False)
            )
        return tuple(map(_nameless, under_attack.block(self.level, readings, evidence, self.names).results))

    def _kept(self, name: str, make: Callable[[], Readings]) -> Readings:
        file = f"{self.key[:12]}-attacks-{name}"
        if name not in self.known and (kept := self.checkpoints.load(file)):
            self.known[name] = kept["readings"]
        if name not in self.known:
            self.known[name] = make()
            self.checkpoints.save(file, {"readings": self.known[name]})
        return self.known[name]


def _nameless(found: finding.Attack) -> content.Attack:
    settings = (asdict(one) | {"given_back": len(one.given_back)} for one in found.settings)
    return content.Attack(**asdict(found) | {"settings": tuple(content.Setting(**one) for one in settings)})
