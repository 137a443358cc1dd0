"""What the figures of proposed steps mean, in sentences for somebody who did not write the method.

The limits between the wordings are our choice: they sort figures into words, nothing is judged by them.
"""

from collections.abc import Callable, Sequence

from expunge.reporting.proposals import Change, Proposed, signed
from expunge.reporting.words import number

SLIGHT = 0.001  # nats per token: less counts as no change
CLOSE = 1.5  # times as much or as little: still about what was predicted
RELATED = 0.2  # a cosine beyond that says that two gradients share or oppose a direction
OUTGROWN = (
    "A forecast holds near the weights at which the curvature was fitted; a smaller budget, or more cycles where the "
    "method has them, keep the steps shorter."
)


def sentences(proposed: Sequence[Proposed]) -> tuple[str, ...]:
    """In reading order; nothing is said of what was not measured."""
    parts = (_taken, _refused, _forget, _retain, _retain_kl, _damping, _cosine)
    return tuple(line for part in parts for line in part(proposed))


def _taken(proposed: Sequence[Proposed]) -> list[str]:
    taken = [one for one in proposed if one.taken]
    count = f"{len(taken)} of the {len(proposed)} proposed steps {'was' if len(taken) == 1 else 'were'} taken"
    if len(proposed) == 1:
        count = f"The proposed step was {'taken' if taken else 'not taken'}"
    if not taken:
        return [f"{count}: no weight was moved by this part of the method."]
    last = taken[-1]
    if last.budget is None or last.reached is None:
        return [f"{count}."]
    what = "rise of the retain loss" if last.unit == "loss" else "retain KL"
    return [f"{count}, with {number(last.reached)} nats per token of {what} where {number(last.budget)} was allowed."]


def _refused(proposed: Sequence[Proposed]) -> list[str]:
    return [
        f"{one.name} was refused because {one.refused}. The weights stayed as they were before it."
        for one in proposed
        if not one.taken
    ]


def _forget(proposed: Sequence[Proposed]) -> list[str]:
    sums = total(proposed, lambda one: one.forget)
    if sums is None or sums.measured is None:
        return []
    rows = "The loss of the rows to forget"
    if sums.measured < -SLIGHT:
        meaning = "These steps made the model know the rows better, the opposite of forgetting."
    else:
        meaning = "" if sums.measured > SLIGHT else "These steps alone did not make the model forget them."
    return [f"{rows} {_against(sums, 'the gradient')}. {meaning}".strip()]


def _retain(proposed: Sequence[Proposed]) -> list[str]:
    sums = total(proposed, lambda one: one.retain)
    if sums is None:
        return []
    said = f"The loss of rows to keep {_against(sums, 'the curvature')}."
    return [f"{said} {OUTGROWN}" if _outgrown(sums) else said]


def _retain_kl(proposed: Sequence[Proposed]) -> list[str]:
    """Of the first step, since later ones have no forecast of it."""
    first = next((one for one in proposed if one.taken and one.retain_kl.predicted is not None), None)
    if first is None or first.retain_kl.measured is None:
        return []
    return [f"The retain KL of the first step {_against(first.retain_kl, 'the curvature')}."]


def total(proposed: Sequence[Proposed], of: Callable[[Proposed], Change]) -> Change | None:
    """Over the steps that were taken; without a forecast where one of them has none. None: nothing was measured."""
    changes = [of(one) for one in proposed if one.taken]
    measured = [change.measured for change in changes if change.measured is not None]
    predicted = [change.predicted for change in changes if change.predicted is not None]
    if not measured or len(measured) < len(changes):
        return None
    return Change(sum(measured), sum(predicted) if len(predicted) == len(changes) else None)


def _against(change: Change, by: str) -> str:
    """'rose by 0.060 nats per token, 2.0 times what the curvature predicted (+0.030)'."""
    measured, predicted = change.measured, change.predicted
    assert measured is not None
    moved = f"{'rose' if measured > 0 else 'fell'} by {number(abs(measured))} nats per token"
    if abs(measured) <= SLIGHT:
        moved = f"hardly changed ({signed(measured)} nats per token)"
    if predicted is None:
        return moved
    if abs(measured) <= SLIGHT and abs(predicted) <= SLIGHT:
        return f"{moved}, as {by} predicted"
    if min(abs(measured), abs(predicted)) <= SLIGHT or measured * predicted <= 0:
        return f"{moved}, where {by} predicted {signed(predicted)}"
    ratio = measured / predicted
    if 1 / CLOSE <= ratio <= CLOSE:
        return f"{moved}, about what {by} predicted ({signed(predicted)})"
    return f"{moved}, {_times(ratio)} what {by} predicted ({signed(predicted)})"


def _times(ratio: float) -> str:
    return "more than 100 times" if ratio > 100 else f"{ratio:.2g} times" if ratio < 1 else f"{ratio:.1f} times"


def _outgrown(change: Change) -> bool:
    """A rise well beyond its forecast."""
    if change.measured is None or change.predicted is None:
        return False
    return change.measured > max(SLIGHT, CLOSE * change.predicted)


def _damping(proposed: Sequence[Proposed]) -> list[str]:
    by_warning: dict[str, list[str]] = {}
    for one in proposed:
        if one.warning:
            by_warning.setdefault(one.warning, []).append(str(one.place))
    return [
        f"In proposal{'s' if len(places) > 1 else ''} {', '.join(places)}: {warning}."
        for warning, places in by_warning.items()
    ]


def _cosine(proposed: Sequence[Proposed]) -> list[str]:
    """The mean over the proposals that have one."""
    plain, metric = (
        [value for value in found if value is not None]
        for found in ([one.cosine for one in proposed], [one.cosine_in_metric for one in proposed])
    )
    if not plain:
        return []
    cosine = sum(plain) / len(plain)
    meaning = "are nearly independent: forgetting the one need not cost the other"
    if abs(cosine) > RELATED:
        way = "are alike" if cosine > 0 else "oppose each other"
        meaning = f"{way}: what raises the loss of the one tends to {'raise' if cosine > 0 else 'lower'} the other's"
    said = f"The gradients of forget and retain rows {meaning} (cosine {cosine:.2f})."
    if not metric:
        return [said]
    return [f"{said} In the curvature's metric, which decides for a step shaped by it, the cosine is {_mean(metric)}."]


def _mean(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.2f}"
