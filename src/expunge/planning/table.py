"""A plan's figures in lines of text."""

from collections.abc import Sequence

from expunge.config.flags import METHOD
from expunge.influence.amounts import LARGE
from expunge.model.choice import Choice
from expunge.planning.estimate import Cost, Estimate, Fit
from expunge.planning.route import ABOUT_AS_LITTLE

HEADINGS = (
    "method",
    "subspace",
    "steps",
    "row passes",
    "time",
    "measuring",
    "its time",
    "together",
    "peak memory",
    "while",
)
UNITS = (("d", 86400.0), ("h", 3600.0), ("min", 60.0))


def lines(estimate: Estimate) -> list[str]:
    """Table, recommendation (beside the default method, or the one that was named) and what fits."""
    costs = [*estimate.methods, *([estimate.retraining] if estimate.retraining else [])]
    found = _table([HEADINGS, *map(_cells, costs)])
    found += [f"{cost.name}: moves {layers(cost.linear)}" for cost in costs if cost.linear]
    found += [
        f"{cost.name}: up to {cost.spare_passes:,.0f} row passes more where the rest is not as it was after the last "
        "step, and is repaired"
        for cost in costs
        if cost.spare_passes
    ]
    found += [f"{name}: needs {what}" for name, what in estimate.missing.items()]
    found += [f"{name}: {why}" for name, why in estimate.refused.items()]
    found.append(
        "at most, for one full attempt: runs that arrive early stop early, and attempts that fail can double the "
        "steps; times are this machine's, as busy as it is now, without files"
    )
    found.append(
        "row passes: one row forward and backward, forward alone a third; measuring: what the models are judged by, "
        "whatever the method, less what an earlier run measured (its generating counts in the time alone)"
    )
    found += [
        f"--evidence {level}: attacks take {passes.row_passes:,.0f} row passes and "
        f"{sum(texts.windows for texts in passes.generated):,} generated texts more, whatever the method"
        for level, passes in estimate.attacks.items()
    ]
    if estimate.interpreter:
        found.append(
            f"peak memory is that of models and passes; Python takes {gib(estimate.interpreter)} beside, and freed "
            "blocks below 32 MiB, which the allocator may keep"
        )
    compared = next((cost for cost in estimate.methods if cost.name == METHOD), None)
    compared = compared or next(iter(estimate.methods), None)
    if compared:
        found.append(recommendation(compared, estimate.retraining, estimate.share))
    return found + [fits(name, tried) for name, tried in estimate.room.items()]


def recommendation(unlearning: Cost, retraining: Cost | None, share: float | None = None) -> str:
    """By the rule of `--method auto` (`planning.route`): where retraining is about as cheap, in row passes, and where
    more than a quarter (`share`) of what was trained in is to go, whatever it takes."""
    if share is not None and share > LARGE:
        how = "expunge retrain" if retraining else "expunge retrain, from the model before its fine-tuning"
        return (
            f"recommended: retrain ({how}). {share:.0%} of the known rows that were trained in are to go; of rows that "
            f"are not given, unlearning lost a fifth of the answers where half went and up to a tenth where a tenth did"
        )
    if retraining is None:
        return "retraining: with --base and --train the plan says what it would cost"
    times = retraining.row_passes / unlearning.row_passes
    if times <= ABOUT_AS_LITTLE:
        return (
            f"recommended: retrain (expunge retrain). It takes {times:.0%} of the row passes of {unlearning.name} at "
            "its most, and is exact"
        )
    return f"recommended: unlearn. Retraining takes {times:.1f} times the row passes of {unlearning.name} at its most"


def layers(linear: Choice) -> str:
    """Which linear layers move, and what is kept of them."""
    return f"layers {linear.which} ({linear.layers}), with {gib(linear.bytes)} for their curvature and the rows in them"


def fits(name: str, tried: Sequence[Fit]) -> str:
    """Whether a run fits into a memory, and with which flags."""
    first, last = tried[0], tried[-1]
    said = f"{'yes' if first.fits else 'no'} as asked, with {first.subspace} ({_peak(first)})"
    if last.fits and last.flags:
        said += f"; yes with {last.flags} ({_peak(last)})"
    elif len(tried) > 1:
        least = min(tried[1:], key=lambda one: one.peak)
        said += f"; nor with {', '.join(one.flags for one in tried[1:])} ({_peak(least)} at least)"
    return f"fits in {name}: {said}"


def gib(size: float) -> str:
    """Bytes in GiB, to two figures."""
    value = size / 2**30
    return f"{value:.0f} GiB" if value >= 10 else f"{value:.1f} GiB" if value >= 1 else f"{value:.2f} GiB"


def duration(seconds: float) -> str:
    """Seconds in the largest unit that they fill, to two figures."""
    for unit, size in UNITS:
        if seconds >= 1.5 * size:
            return f"{seconds / size:.1f} {unit}" if seconds < 10 * size else f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _peak(one: Fit) -> str:
    linear = f", layers {one.linear.which}" if one.linear else ""
    return f"{gib(one.peak)} while {one.when}{linear}"


def _cells(cost: Cost) -> tuple[str, ...]:
    passes = f"{cost.row_passes:,.0f}", duration(cost.seconds - cost.measuring_seconds)
    measuring = f"{cost.measuring_passes:,.0f}", duration(cost.measuring_seconds)
    memory = gib(cost.memory.peak), cost.memory.when
    return (cost.name, cost.subspace, f"{cost.steps}", *passes, *measuring, duration(cost.seconds), *memory)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
