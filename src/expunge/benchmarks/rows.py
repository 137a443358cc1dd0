"""The user's own rows: read in the known forms, generated from a little beyond the reference, no official score."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from expunge.benchmark import Circumstances, Generating, Official, no_log
from expunge.data.rows import MakeRow
from expunge.scoring.evidence import Evidence
from expunge.scoring.intervals import Floats


@dataclass(frozen=True, slots=True)
class Rows:
    """At most 256 rows of a set are generated from, and of each set to keep no more are measured: shares of them are
    known to a hundredth or two, and more would cost more than the unlearning. Metrics and verdict say how they did."""

    title: ClassVar[str] = "The user's own rows"
    generating: ClassVar[Generating] = Generating(most_kept=256, as_numbers=True)
    make_row: ClassVar[MakeRow | None] = None
    own_sets: ClassVar[Mapping[str, str]] = {}

    def official(self, evidence: Evidence, circumstances: Circumstances) -> Official | None:
        return None

    def behind(self, evidence: Evidence, circumstances: Circumstances) -> Mapping[str, Floats]:
        return {}

    def flags(self, unlearned: Official, original: Official | None, retrained: Sequence[Official]) -> list[str]:
        return []

    def exports(self, evidence: Evidence, circumstances: Circumstances) -> Mapping[str, object]:
        return {}

    def read_log(self, content: object, where: str) -> object:
        raise no_log(where, self.title)
