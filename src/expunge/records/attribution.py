"""`expunge influence`: on which training rows what a model knows of given rows depends (training data attribution).

`influence.jsonl` has a line for each row that was asked about: its name and keyed hash, and the training rows with the
largest influence (`influence.ranking`). It holds no text unless rows may be shown.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from expunge.config.commands import Influence
from expunge.data.rows import Row
from expunge.data.tokens import encode
from expunge.files import hashing
from expunge.influence import directions, ranking
from expunge.intake.assembly import assemble
from expunge.intake.sets import Checked
from expunge.loop.batch_tokens import begin
from expunge.loop.moving import choose
from expunge.method import Needs
from expunge.problem import Split
from expunge.reference.kept import drawn
from expunge.runs import outputs

FITTED = 384  # training rows that the curvature is fitted on, as in large requests
FILE = "influence.jsonl"
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Source:
    """A training row: file and line, keyed hash, by how much the asked row's mean margin would fall without it (see
    `influence.ranking`), whether it is the row itself, and with --show-rows its text."""

    name: str
    id: str
    influence: float
    same: bool
    text: str | None


@dataclass(frozen=True, slots=True)
class Depending:
    """A row that was asked about, and the training rows with the largest influence, largest first."""

    name: str
    id: str
    sources: tuple[Source, ...]


@dataclass(frozen=True, slots=True)
class Attribution:
    """Where the list lies, and what is in it."""

    output: Path
    rows: tuple[Depending, ...]


def find(config: Influence, checked: Checked, needs: Needs, output: Path, say: Say) -> Attribution:
    """Loads the model, fits the curvature of a method's needs on training rows, and lists. Raises `InputError`."""
    assert needs.factors is not None
    assembled = assemble(config, checked)
    chosen = choose(assembled.problem, needs, config.subspace, None, say).subspace
    problem = replace(assembled.problem, model=chosen.model, adapter=chosen.adapter, movable=chosen.movable)
    begin(problem, chosen.name, config, say)
    rows = checked.sets["train"].rows
    train = Split("train", rows, tuple(encode(rows, problem.rendering, problem.tokenizer)))
    fit = directions.fit_on(problem, drawn(train, FITTED, problem.seed, "fit"), needs.factors, per_layer=True)
    table = ranking.influences(problem, problem.splits["forget"], train, fit.whitening(release=True))
    found = Attribution(output, listed(checked.forget, rows, table, config.most, config.show_rows))
    with outputs.whole_folder(output, private=config.show_rows, replaces=config.overwrite) as folder:
        lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in found.rows)
        (folder / FILE).write_text(lines, encoding="utf-8")
    others = [next((one for one in row.sources if not one.same), None) for row in found.rows]
    for row, other in list(zip(found.rows, others, strict=True))[:10]:
        say(f"{row.name}: most of {other.name} ({other.influence:.2g})" if other else f"{row.name}: of no other row")
    say(f"influence: {output / FILE}")
    return found


def listed(
    asked: Sequence[Row], train: Sequence[Row], table: Tensor, most: int, show: bool = False
) -> tuple[Depending, ...]:
    """The `most` largest influences on each row of a table [asked, train]."""
    secret = hashing.key()

    def mark(row: Row) -> str:
        return hashing.keyed_hash(row.content, secret)

    def source(own: Row, place: int, influence: float) -> Source:
        other = train[place]
        text = " ".join(part for part in other.content if part) if show else None
        return Source(other.name, mark(other), influence, other.identity == own.identity, text)

    found = []
    for own, influences in zip(asked, table, strict=True):
        top = influences.topk(min(most, len(train)))
        pairs: Any = zip(top.indices.tolist(), top.values.tolist(), strict=True)
        found.append(Depending(own.name, mark(own), tuple(source(own, place, influence) for place, influence in pairs)))
    return tuple(found)
