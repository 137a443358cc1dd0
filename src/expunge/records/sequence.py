"""What requests in sequence have cost so far: the answers of rows to keep that the models of a line still know.

A run's verdict compares with the model that the run was given. So each of ten runs may say *kept*, and the tenth model
have lost a third of what the first one knew (docs/results/attacks.md). Records lie in the folders of their models: as
far as they are there, and are those that the next run saw, their scores say what became of the rest on the way.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from expunge.files import hashing
from expunge.records import record
from expunge.reporting.finding import Score
from expunge.reporting.record import Record

KNOWN, KEPT = "knowledge", "retain"
SPENT = 0.05  # of the answers to keep that the first model knew: more lost than that is said; our choice


@dataclass(frozen=True, slots=True)
class SoFar:
    """`first`: the model that the line began with. `known`: the share of the answers to keep that it knew, and those of
    the models that the runs since wrote, each of the rows that its run was given."""

    first: str
    known: tuple[float, ...]

    @property
    def lost(self) -> float:
        """Of what the first model knew; below 0 where the last one knows more."""
        return self.known[0] - self.known[-1]

    @property
    def sentence(self) -> str:
        """What to say of it; nothing where no more was lost than is to be expected."""
        if self.lost <= SPENT:
            return ""
        runs = len(self.known) - 1
        since = ", ".join(f"{share:.2f}" for share in self.known[1:])
        return (
            f"{runs} {'run' if runs == 1 else 'runs'} in sequence: of the answers to keep the first model knew "
            f"{self.known[0]:.2f}, then {since} were known. Each run is judged beside the model that it was given, and "
            f"what they lose adds up: all rows at once from the first model ({self.first}) lose less"
        )

    def then(self, scores: tuple[Score, ...]) -> "SoFar":
        """With one more run, by its scores; as it is where they do not say."""
        now = _known(scores, "unlearned")
        return self if now is None else replace(self, known=(*self.known, now))


def so_far(content: Record) -> SoFar | None:
    """Of the line that ends with the run of a record; None where no record says what was known."""
    first, known = "", list[float]()
    for one in line(content):
        before, after = (_known(one.scores, model) for model in ("original", "unlearned"))
        if before is None or after is None:
            break
        first, known = one.setting("model") or "", [before, after, *known[1:]]
    return SoFar(first, tuple(known)) if known else None


def line(content: Record) -> Iterator[Record]:
    """A run's record, then those of the runs before it, as far as they lie where they are said to be and are the ones
    that the next run saw."""
    yield content
    while (parent := content.parent) and (file := record.find(parent.path)).is_file():
        if hashing.full_hash(file) != parent.record:
            return
        content = record.read(file)
        yield content


def given(content: Record) -> dict[str, str]:
    """What the model that a run was given is known by (`hashes.identity`), as its record has it."""
    hashed = {role: content.hashes[role] for role in ("model", "model_base") if role in content.hashes}
    return hashed or {"model": content.setting("model") or ""}


def _known(scores: tuple[Score, ...], model: str) -> float | None:
    return next((one.value for one in scores if (one.metric, one.set, one.model) == (KNOWN, KEPT, model)), None)
