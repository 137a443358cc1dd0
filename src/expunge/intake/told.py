"""What a run says of its inputs before it begins: rows by set, how they were rendered, and what weakens the result."""

from collections.abc import Iterator

from expunge.intake import copies
from expunge.intake.assembly import Assembled
from expunge.intake.sets import Checked


def lines(checked: Checked, assembled: Assembled) -> Iterator[str]:
    """Names of files and counts; no text of a row."""
    for role, rows in checked.sets.items():
        merged = f", {rows.duplicates} duplicates merged" if rows.duplicates else ""
        yield f"{role}: {len(rows)} rows{merged}"
    if assembled.joins:
        losses = ", ".join(f"{join} {loss:.2f}" for join, loss in assembled.joins.items())
        yield f"join: {assembled.problem.rendering.join} (the original's loss on the forget rows: {losses})"
    yield from assembled.notes
    yield from copies.told(checked.echoes)
    if "retain" not in checked.sets:
        yield "no retain rows: what is not replayed by the original itself is held by nothing"
