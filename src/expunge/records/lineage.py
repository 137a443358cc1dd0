"""Requests in sequence: what a model that an earlier run wrote means for this run.

The earlier run is the *parent*. Its record lies in the model's folder and holds keyed hashes of the rows that it and
the runs before it served. So rows that were served already are known again without their text; rows to keep that were
once to be forgotten are refused; and where the earlier rows themselves are given (`--earlier`), they are judged again.
"""

from collections.abc import Callable, Iterator, KeysView, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from expunge.config.commands import EARLIER, Evaluate, Unlearning
from expunge.data.rows import Row
from expunge.errors import InputError
from expunge.evaluation import verdict
from expunge.files import hashing
from expunge.intake.sets import Checked
from expunge.loop.delivery import OWN_ADAPTER
from expunge.records import record, sequence
from expunge.records.sequence import SoFar
from expunge.reporting.finding import RowVerdict
from expunge.reporting.record import Holder, Parent, Record
from expunge.scoring.evidence import Evidence

DONE = ("forgotten", "over-forgotten")
KNOWN, LOW = "not forgotten", "partly"
NAMED = 5
OTHER_KEY = "the rows of earlier requests were hashed under another key, so nothing says which of them were given again"


@dataclass(frozen=True, slots=True)
class Lineage:
    """The parent as the record names it, by row id what the runs before found, and what became of the rest."""

    parent: Parent | None = None
    weights: str | None = None
    losses: Mapping[str, float] = field(default_factory=dict)
    done: frozenset[str] = frozenset()
    holders: tuple[Holder, ...] = ()
    so_far: SoFar | None = None
    in_base: bool = False
    """The model is an adapter that a run wrote over the model that had learned the rows."""


def trace(config: Unlearning | Evaluate, checked: Checked, say: Callable[[str], None]) -> Lineage:
    """Looks at where the model comes from, before it is loaded, and says what there is to say.

    Raises `InputError` where all forget rows were served and forgotten (unless forced), where a row to keep was once
    served, and for a record that cannot be read.
    """
    file = Path(str(config.model)) / "expunge" / "record.json"
    if not file.is_file():
        return Lineage()
    secret, content = hashing.key(), record.read(file)
    before = (*content.rows, *(content.earlier.rows if content.earlier else ()))
    done = frozenset(row.id for row in before if row.verdict in DONE)
    ids = {
        name: {hashing.keyed_hash(row.content, secret): row for row in found.rows}
        for name, found in checked.sets.items()
    }
    _refuse_kept(ids.get("retain", {}), content.served, str(file))
    parent = _parent(str(config.model), file, content, secret, ids["forget"].keys(), ids.get(EARLIER, {}).keys())
    if not getattr(config, "force", True):
        _refuse_done(config, parent, ids["forget"].keys(), done)
    so_far = sequence.so_far(content)
    for line in _lines(parent, len(ids["forget"])):
        say(line)
    if so_far and so_far.sentence:
        say(f"warning: {so_far.sentence}.")
    firsts = {row.id: row.loss.get("first", row.loss.get("original")) for row in before}
    return Lineage(
        parent=parent,
        weights=content.hashes.get("output"),
        losses={one: loss for one, loss in firsts.items() if loss is not None},
        done=done,
        holders=content.holders,
        so_far=so_far,
        in_base=content.save is not None and OWN_ADAPTER in content.save.note,
    )


def ancestors(model: str, hashed: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """Hashes (`hashes.identity`) of the models that a model was made of by runs, its parent's first, as far as their
    records lie where they are said to be and name the weights that are there."""
    weights, file = hashed.get("model"), record.find(model)
    if not weights or not file.is_file():
        return
    for content in sequence.line(record.read(file)):
        if content.hashes.get("output") != weights:
            return
        yield sequence.given(content)
        if not (weights := content.hashes.get("model")):
            return


def _parent(
    model: str, file: Path, content: Record, secret: bytes, forget: KeysView[str], earlier: KeysView[str]
) -> Parent:
    """The parent by its record; of another key's rows nobody knows which were not given."""
    served, same = content.served, content.key == hashing.key_mark(secret)
    return Parent(
        path=str(Path(model).absolute()),
        record=hashing.full_hash(file),
        created=content.created,
        same_weights=None,
        same_key=same,
        served=tuple(sorted(served)),
        served_again=tuple(one for one in forget if one in served),
        missing=tuple(sorted(served - forget - earlier)) if same else (),
    )


def _refuse_done(config: Unlearning | Evaluate, parent: Parent, forget: KeysView[str], done: frozenset[str]) -> None:
    if forget <= done:
        raise InputError(
            f"{config.forget}: all {len(forget)} rows were served already: the run of {parent.created[:10]} that "
            f"wrote {config.model} forgot them. Give the rows of a new request, or pass --force to run again."
        )


def _refuse_kept(retain: Mapping[str, Row], served: set[str], file: str) -> None:
    kept = [row for one, row in retain.items() if one in served]
    if kept:
        raise InputError(
            f"{kept[0].place}: this row was forgotten by an earlier request ({file}), and {len(kept)} row(s) to keep "
            "were. Keeping them would teach them again: take them out of --retain."
        )


def _lines(parent: Parent, asked: int) -> Iterator[str]:
    """What a person should hear before the run."""
    yield f"the model comes from an earlier run ({parent.created[:10]}) that served {len(parent.served)} rows"
    if not parent.same_key:
        yield f"warning: {OTHER_KEY}"
        return
    if again := parent.served_again:
        yield f"note: {len(again)} of {asked} forget rows were served by an earlier run ({_named(again)}); they stay"
    if missing := parent.missing:
        yield f"warning: {unseen(missing)}. Give their files as --earlier."


def unseen(missing: Sequence[str]) -> str:
    """Which rows nobody looked at again."""
    return (
        f"{len(missing)} rows of earlier requests were not given ({_named(missing)}), so nothing shows whether this "
        "run brought them back"
    )


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:NAMED]) + (f" and {len(ids) - NAMED} more" if len(ids) > NAMED else "")


@dataclass(frozen=True, slots=True)
class Again:
    """Verdicts on the rows of earlier requests. `first`: their losses under the model that first held them."""

    rows: list[verdict.Judged]
    forget: RowVerdict
    reasons: list[str]
    came_back: list[str]
    first: list[float | None]

    @property
    def counts(self) -> dict[str, int]:
        """Rows per verdict."""
        found = [row.verdict for row in self.rows]
        return {word: found.count(word) for word in dict.fromkeys(found)}

    @property
    def why(self) -> list[str]:
        """Why the whole does not pass, where they are the reason."""
        return [] if self.forget == "forgotten" else [f"of earlier requests {reason}" for reason in self.reasons]


def judge_again(evidence: Mapping[str, Evidence], ids: list[str], lineage: Lineage) -> Again | None:
    """Verdicts on the earlier rows as on forget rows; None where none were given.

    How far a row has come is measured from the model that first held it, by the parent's record. Where that does not
    know the row, from a loss of 0: how well it was known at first is not known, so the way is taken to be the longest.
    """
    if EARLIER not in evidence["unlearned"].sets:
        return None
    first = [lineage.losses.get(one) for one in ids]
    original = evidence["original"]
    begun = replace(original.sets[EARLIER], loss=np.array([loss or 0.0 for loss in first]))
    start = Evidence({**original.sets, EARLIER: begun})
    rows = verdict.judge_rows(start, evidence["unlearned"], evidence.get("retrained"), EARLIER)
    found, reasons = verdict.judge_forget_set(rows)
    words = (KNOWN,) if found in DONE else (KNOWN, LOW)  # a few rank low by chance: no more than that, and none is back
    back = [one for one, row in zip(ids, rows, strict=True) if row.verdict in words and one in lineage.done]
    if back:
        who = (
            "1 row that an earlier run forgot is"
            if len(back) == 1
            else f"{len(back)} rows that an earlier run forgot are"
        )
        reasons = [f"{who} known again ({_named(back)})", *reasons]
    return Again(rows, found, reasons, back, first)
