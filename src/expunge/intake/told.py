"""What a run says of its inputs before it begins: rows by set, how they were rendered, and what weakens the result."""

from collections.abc import Iterator

from expunge.intake import copies
from expunge.intake.assembly import Assembled
from expunge.intake.rendering import TEMPLATE
from expunge.intake.sets import Checked
from expunge.scoring.chance import FEWEST_COMPARISONS

KINDS = {"document": "documents", "answer": "answers"}


def lines(checked: Checked, assembled: Assembled) -> Iterator[str]:
    """Names of files and counts; no text of a row."""
    for role, rows in checked.sets.items():
        merged = f", {rows.duplicates} duplicates merged" if rows.duplicates else ""
        yield f"{role}: {len(rows)} rows{merged}"
    if assembled.joins:
        losses = ", ".join(f"{join} {loss:.2f}" for join, loss in assembled.joins.items())
        rendering = assembled.problem.rendering
        form = TEMPLATE if rendering.chat_template else rendering.join
        yield f"join: {form} (the original's loss on the forget rows: {losses})"
    yield from assembled.notes
    yield from of_rows(checked)
    if "retain" not in checked.sets:
        yield "no retain rows: what is not replayed by the original itself is held by nothing"


def of_rows(checked: Checked) -> Iterator[str]:
    """What rows alone show, without a model."""
    yield from copies.told(checked.echoes)
    yield from outside_training(checked)
    yield from untold(checked)


def outside_training(checked: Checked) -> Iterator[str]:
    """Of forget rows that the file of all training rows lacks."""
    if "train" not in checked.sets:
        return
    trained = {row.identity for row in checked.sets["train"].rows}
    if lacking := [row for row in checked.sets["forget"].rows if row.identity not in trained]:
        yield (
            f"warning: {len(lacking)} of {len(checked.forget)} forget rows are not in --train ({lacking[0].name}), "
            "which is to be all that the model was fine-tuned on: what was trained in and not given, and a retrained "
            "model, go by it"
        )


def untold(checked: Checked) -> Iterator[str]:
    """Of which kind of forget rows there will be no verdict but *cannot tell*, and what would help."""
    judging = checked.parts.get("judging", ())
    for kind, plural in KINDS.items():
        asked = sum(row.kind == kind for row in checked.forget)
        there = sum(row.kind == kind for row in judging)
        if not asked or there >= FEWEST_COMPARISONS:
            continue
        yield (
            f"warning: {asked} {plural} to forget, and {there} that the model never saw to judge them by (half of the "
            f"holdout): below {FEWEST_COMPARISONS} the verdict on what is forgotten is *cannot tell*. Give "
            f"{2 * FEWEST_COMPARISONS} or more such {plural} as --holdout"
        )
