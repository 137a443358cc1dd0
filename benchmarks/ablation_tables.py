"""Tables of comparisons that ask whether a curvature earns its place: by variant over worlds or seeds, by use, and how
much Sophia clipped. `cells`: for each world (or seed) the cells by variant."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from expunge.reporting.proposals import inside, shares

Cells = Mapping[int, Mapping[str, dict[str, Any]]]
COLUMNS = {
    "loss:forget": "forget loss",
    "knowledge:forget": "forget known",
    "loss:collateral": "reporting loss",
    "retain_kl:collateral": "reporting KL",
    "knowledge:collateral": "reporting known",
    "loss:retain": "retain loss",
    "loss:judging": "never-seen loss",
}
FAMILIES = {
    "as a step, diagonal": ("step_diagonal", "step_identity", "step_shuffled"),
    "as a step, block": ("step_block", "step_identity", "step_shuffled"),
    "as a step, diagonal with restoration": ("step_diagonal_restored", "step_identity", "step_shuffled"),
    "as a step, block with restoration": ("step_block_restored", "step_identity", "step_shuffled"),
    "as Sophia's denominator": ("sophia_diagonal", "sophia_identity", "sophia_shuffled"),
    "in LIBU's first phase, diagonal, against none": ("libu", "libu_identity"),
    "as the start of a descent, diagonal": ("start_diagonal", "start_identity", "start_shuffled"),
    "as the start of a descent, block": ("start_block", "start_identity", "start_shuffled"),
    "a start by the diagonal, against none": ("start_diagonal", "loss_matching"),
    "a start by the block, against none": ("start_block", "loss_matching"),
}


def value(cell: dict[str, Any], key: str) -> float:
    return float(cell["scores"][key]["value"]) if key in cell["scores"] else float("nan")


def table(worlds: Cells) -> list[str]:
    """Mean over worlds with the smallest and the largest; a line for each variant that any world has.

    Of peaks of memory the smallest, since a process keeps what earlier cells took.
    """
    more = ("tokens", "minutes", "peak GiB")
    lines = ["| variant | " + " | ".join((*COLUMNS.values(), *more)) + " |"]
    lines.append("| --- |" + " ---: |" * (len(COLUMNS) + len(more)))
    for name in dict.fromkeys(name for cells in worlds.values() for name in cells):
        cells = [cells[name] for cells in worlds.values() if name in cells and not cells[name]["error"]]
        if not cells:
            lines.append(f"| {name} | failed |" + " |" * (len(COLUMNS) + len(more) - 1))
            continue
        shown = [_spread([value(cell, key) for cell in cells]) for key in COLUMNS]
        shown += [_mean(cells, "tokens", 1, ",.0f"), _mean(cells, "unlearn_seconds", 60, ".1f")]
        peaks = [cell["peak_memory_bytes"] / 2**30 for cell in cells if cell["peak_memory_bytes"]]
        shown += [f"{min(peaks):.1f}" if peaks else ""]
        lines.append(f"| {name} | " + " | ".join(shown) + " |")
    return lines


def _spread(values: list[float]) -> str:
    mean = f"{np.mean(values):.2f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.2f} to {max(values):.2f})"


def _mean(cells: list[dict[str, Any]], key: str, unit: float, form: str) -> str:
    found = [cell[key] / unit for cell in cells if cell[key]]
    return format(np.mean(found), form) if found else ""


def verdicts(worlds: Cells, each: str = "worlds") -> list[str]:
    """For each use of a curvature: in how many worlds it kept more of the reporting rows than its controls.

    The controls are no curvature and a shuffled one; of a start also a descent without one. No lines where no use has
    its controls.
    """
    lines = ["| use | smaller KL than the controls | more answers known | forget loss over the first control's |"]
    lines.append("| --- | --- | --- | --- |")
    for use, names in FAMILIES.items():
        compared = [
            [cells[name] for name in names]
            for cells in worlds.values()
            if all(name in cells and not cells[name]["error"] for name in names)
        ]
        if not compared:
            continue
        kl = sum(_beats(cells, "retain_kl:collateral", -1) for cells in compared)
        known = sum(_beats(cells, "knowledge:collateral", 1) for cells in compared)
        ratios = [value(cells[0], "loss:forget") / value(cells[1], "loss:forget") for cells in compared]
        count = len(compared)
        ratio = f"{min(ratios):.2f} to {max(ratios):.2f}"
        lines.append(f"| {use} | {kl} of {count} {each} | {known} of {count} | {ratio} |")
    return lines if len(lines) > 2 else []


def _beats(cells: list[dict[str, Any]], key: str, sign: int) -> bool:
    ours, *others = (sign * value(cell, key) for cell in cells)
    return ours > max(others)


def clipping(worlds: Cells) -> list[str]:
    """How often the share that Sophia left unclipped, measured midway between refreshes, lay in 10 to 50 %; no lines
    where Sophia did not run."""
    lines = ["| variant | checks in 10 to 50 % | median share |", "| --- | --- | --- |"]
    for name in dict.fromkeys(name for cells in worlds.values() for name in cells):
        found = [cells[name] for cells in worlds.values() if name in cells]
        unclipped = [share for cell in found for share in shares(cell["sophia"])]
        if unclipped:
            lines.append(f"| {name} | {inside(unclipped)} of {len(unclipped)} | {np.median(unclipped):.2f} |")
    return lines if len(lines) > 2 else []
