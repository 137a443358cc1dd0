"""Where a score of the unlearned model lies, in words: a hint for the eye beside the table, not the verdict.

Forget and judging rows are read against the retrained model, which never saw them either; rows to keep against the
original. *Level* means that the two intervals overlap: a coarse look, weaker than a test on pairs. An interval over the
whole range of its metric cannot tell anything, and is level with nothing.
"""

import math
from collections.abc import Mapping

from expunge.reporting.finding import Score
from expunge.reporting.words import Badge

CANNOT_TELL = "cannot tell"
Ends = tuple[float | None, float | None]


def read(high: str, name: str, scores: Mapping[str, Score | None], ends: Ends = (None, None)) -> Badge:
    """Scores by model on the set `name`; None where a model was not measured. `high`: what a high score means, see
    `metric.Metric`; `ends`: of the metric's range."""
    to_retrained = name in ("forget", "earlier") or (name == "judging" and scores.get("retrained") is not None)
    other = "retrained" if to_retrained else "original"
    ours, theirs = scores.get("unlearned"), scores.get(other)
    if ours is None or theirs is None:
        return Badge(f"no {'unlearned' if ours is None else other} model to compare", "unknown")
    if says_nothing(ours, ends) or says_nothing(theirs, ends):
        return Badge(f"{CANNOT_TELL}: too few rows", "unknown")
    apart = _apart(ours, theirs)
    if apart is None:
        return Badge("no intervals to compare", "unknown")
    if apart == 0:
        same = ours.value == theirs.value
        return Badge(f"{'equal to' if same else 'level with'} {other}", "good")
    if name in ("forget", "earlier") and high in ("known", "unknown"):
        beyond = (apart > 0) == (high == "unknown")
        return Badge("past retrained: over-forgetting", "over") if beyond else Badge("short of retrained", "bad")
    if name in ("retain", "guard", "samples", "collateral") and high in ("known", "unknown"):
        better = (apart > 0) == (high == "known")
        return Badge(f"better than {other}", "good") if better else Badge(f"worse than {other}", "warn")
    return Badge(f"{'above' if apart > 0 else 'below'} {other}", "unknown")


def says_nothing(score: Score, ends: Ends) -> bool:
    """Whether the interval is all of the metric's range."""
    (least, most), low, high = ends, score.low, score.high
    if least is None or most is None or low is None or high is None:
        return False
    return bool(low <= least and high >= most)


def _apart(ours: Score, theirs: Score) -> int | None:
    """+1 or -1 where our whole interval lies above or below theirs, 0 where they touch, None where one is unknown."""
    if ours.value is not None and ours.value == theirs.value:
        return 0
    bounds = [bound for bound in (ours.low, ours.high, theirs.low, theirs.high) if bound is not None]
    if len(bounds) < 4 or not all(map(math.isfinite, bounds)):
        return None
    return int(bounds[0] > bounds[3]) - int(bounds[1] < bounds[2])
