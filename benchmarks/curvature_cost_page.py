"""The page that `curvature_cost.py` writes."""

import statistics
from typing import Any

PLAIN, FULL_PLAIN = "plain", "full weights: plain"
OPERATORS = 14
TOLD = "Full weights (their ratios: over the plain pass of full weights) and the block curvature carry no bar."


def ratios(times: dict[str, list[float]], name: str, other: str) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile over rounds."""
    return quartiles([one / two for one, two in zip(times[name], times[other], strict=True)])


def quartiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def page(results: dict[str, Any], notes: list[str]) -> str:
    """The tables in Markdown, and below them the `notes` on how it was measured."""
    shape, machine = results["shape"], results["environment"]
    lines = ["# What exact per-example curvature costs", ""]
    lines += ["`python benchmarks/curvature_cost.py --output docs/results` made this.", ""]
    lines += [
        f"A Llama of width {shape['width']} with {shape['layers']} layers and a vocabulary of {shape['vocabulary']}, "
        f"random weights, LoRA of rank {shape['rank']} on all linear layers but the output head; batches of "
        f"{shape['batch']} rows of {shape['tokens']} tokens, {shape['batches']} a pass; {results['runs']} interleaved "
        f"rounds. {results['device']}, {machine['machine']}; "
        + ", ".join(f"{name} {machine['versions'][name]}" for name in ("python", "torch", "transformers", "peft"))
        + f"; {machine['created'][:10]}.",
    ]
    for found in results["precisions"]:
        lines += ["", f"## {found['precision']}", "", *_bars(found), "", *_passes(found), "", *_operators(found)]
    return "\n".join([*lines, "", *notes, "", TOLD]) + "\n"


def _bars(found: dict[str, Any]) -> list[str]:
    lines = ["| figure | pass | over | ratio | at most | |", "| --- | --- | --- | --- | --- | --- |"]
    for bar in found["bars"]:
        cells = (bar["figure"], bar["pass"], bar["over"], f"{bar['ratio']:.3f}", f"{bar['most']:.2f}")
        lines.append(f"| {' | '.join(cells)} | {'met' if bar['met'] else '**missed**'} |")
    off = ", ".join(f"{value:.1e} ({name})" for name, value in found["agreement"].items())
    return [*lines, "", f"Squares differ from those of other ways, relative to a tensor's largest entry, by {off}."]


def _passes(found: dict[str, Any]) -> list[str]:
    lines = ["| pass | seconds: median (quartiles) | over plain: median (quartiles) | memory, MB |"]
    lines += ["| --- | --- | --- | --- |"]
    for name, taken in found["seconds"].items():
        low, middle, high = quartiles(taken)
        base = FULL_PLAIN if name.startswith("full") else PLAIN
        below, ratio, above = ratios(found["seconds"], name, base)
        cells = (f"{middle:.4g} ({low:.4g} to {high:.4g})", f"{ratio:.3f} ({below:.3f} to {above:.3f})")
        lines.append(f"| {name} | {' | '.join(cells)} | {found['memory'][name] / 1e6:.1f} |")
    return [*lines, "", f"Trainable parameters of LoRA: {found['trainable_bytes'] / 1e6:.1f} MB."]


def _operators(found: dict[str, Any]) -> list[str]:
    """The operators that take longest in any of the passes, with the longest first."""
    tables = found["operators"]
    longest = sorted({key for table in tables.values() for key in table}, key=lambda key: -_most(tables, key))
    lines = ["Seconds of each operator itself, under the profiler:", "", f"| operator | {' | '.join(tables)} |"]
    lines += ["| --- |" + " --- |" * len(tables)]
    for key in longest[:OPERATORS]:
        lines.append(f"| {key} | " + " | ".join(f"{table.get(key, 0.0):.4f}" for table in tables.values()) + " |")
    return [*lines, "| all | " + " | ".join(f"{sum(table.values()):.4f}" for table in tables.values()) + " |"]


def _most(tables: dict[str, dict[str, float]], key: str) -> float:
    return max(table.get(key, 0.0) for table in tables.values())
