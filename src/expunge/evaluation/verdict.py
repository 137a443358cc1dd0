"""Verdicts in words, from evidence alone: per forget row, for the forget set, for the rest of the model.

A forget row is compared with *comparison rows*: rows the model never saw, of the same kind and where there are enough
of about the same length, under the same (unlearned) model. Thresholds and their reasons: `docs/concepts.md`.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from expunge.reporting.finding import RestVerdict, RowVerdict
from expunge.scoring.chance import excess, most_beyond
from expunge.scoring.evidence import Evidence, SetEvidence, not_finite
from expunge.scoring.matching import RECALL_LEAK, known_rows, recall_rows

Floats = NDArray[np.float64]
LOW_RANK = 0.05
FEWEST_COMPARISONS = 19  # the smallest number with which a rank of 0.05 can be seen
HALFWAY = 0.5
NEAR_KNOWN = 0.1
BEYOND = 0.25
LEAST_SPREAD = 0.05
QUANTILE = 0.99
NEAREST_SHARE = 0.25
KNOWLEDGE_DROP = 0.05
COLLATERAL_DROP = 0.2
LOSS_SHARE = 0.05
LOSS_SLACK = 0.05
PERPLEXITY_RISE = 1.2
SAMPLES_COLLAPSE = 1.5
SAMPLES_RISE = 0.2
SAME_ANSWERS = 0.8
COLLAPSE_SHARE = 0.5
REST = ("retain", "guard", "collateral", "judging", "samples")


@dataclass(frozen=True, slots=True)
class Judged:
    """One forget row: verdict, its reason in words, rank among its comparison rows and the rank's resolution.

    `chance`: how likely a never-seen row is to look as familiar, by its loss, or by a guessed answer for a leak.
    """

    verdict: RowVerdict
    reason: str
    rank: float | None
    resolution: float | None
    low: bool = False
    high: bool = False
    chance: float = 0.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """The whole: forget set, rest of the model, and whether both are as they should be."""

    forget: RowVerdict
    forget_reasons: list[str]
    rest: RestVerdict
    rest_reasons: list[str]
    rows: list[Judged] = field(default_factory=list)

    @property
    def passes(self) -> bool:
        return self.forget == "forgotten" and self.rest == "kept"

    @property
    def reasons(self) -> list[str]:
        return [*self.forget_reasons, *self.rest_reasons]

    def counts(self) -> dict[str, int]:
        """Rows per verdict."""
        found: dict[str, int] = {}
        for row in self.rows:
            found[row.verdict] = found.get(row.verdict, 0) + 1
        return found


def judge(
    original: Evidence, unlearned: Evidence, retrained: Evidence | None = None, calibrated: bool = True
) -> Verdict:
    """Verdicts on `unlearned`. Needs the sets "forget" and, for anything but *cannot tell*, "judging".

    `calibrated`: the judging rows are a holdout; counterfactual rows hold forget content, whose perplexity must move.
    """
    rows = judge_rows(original, unlearned, retrained)
    forget, forget_reasons = judge_forget_set(rows)
    rest, rest_reasons = judge_rest(original, unlearned, retrained, calibrated)
    return Verdict(forget, forget_reasons, rest, rest_reasons, rows)


def judge_rows(
    original: Evidence, unlearned: Evidence, retrained: Evidence | None, name: str = "forget"
) -> list[Judged]:
    """One verdict per row of a set that is to be forgotten, or was by an earlier request.

    *failed*: a loss that it hangs on is not a number, of the row or of what it is compared with.
    """
    before, after = original.sets[name], unlearned.sets[name]
    comparison = unlearned.sets.get("judging")
    known = np.isfinite(before.loss) & np.isfinite(after.loss) & np.isfinite(after.targets)
    models = {"original": original, "unlearned": unlearned, "retrained": retrained}
    unclear = not_finite(models, ("judging", name) if known.all() else ("judging",))
    leaks = _leaks(after, comparison)
    if retrained is not None:
        leaks &= ~_leaks(retrained.sets[name], retrained.sets.get("judging"))
    guessed, recited = _guess_rate(comparison), _recall_chances(after, comparison)
    return [
        Judged("failed", unclear or "its loss is not a finite number", None, None)
        if unclear or not known[index]
        else _judge_row(
            before=float(before.loss[index]),
            after=float(after.loss[index]),
            others=_comparable(after, index, comparison),
            leak=bool(leaks[index]),
            guessed=guessed if after.kinds[index] == "answer" else float(recited[index]),
        )
        for index in range(len(after.kinds))
    ]


def _judge_row(before: float, after: float, others: Floats, leak: bool, guessed: float) -> Judged:
    n = len(others)
    rank = float(((others < after).sum() + 0.5 * (others == after).sum() + 0.5) / (n + 1)) if n else None
    resolution = 1 / (n + 1) if n else None
    enough = n >= FEWEST_COMPARISONS
    low = enough and rank is not None and rank <= LOW_RANK
    high = enough and rank is not None and rank >= 1 - LOW_RANK
    middle = float(np.median(others)) if n else float("nan")
    way = (after - before) / (middle - before) if n and middle > before else 1.0

    chance = guessed if leak else _chance(after, others)
    if not leak and way >= NEAR_KNOWN and n:
        chance = max(chance, 1 / (n + 1))  # a lucky guess: n rows cannot show that it is rarer

    def judged(verdict: RowVerdict, reason: str) -> Judged:
        return Judged(verdict, reason, rank, resolution, low, high, chance)

    if leak and (low or not enough or guessed <= LOW_RANK):
        return judged("not forgotten", "the model still gives the content of this row")
    if n and way < HALFWAY and (low or (not enough and after < others.min())):
        return judged("not forgotten", f"its loss went {way:.0%} of the way to that of never-seen rows")
    if not enough:
        wanted = f"{FEWEST_COMPARISONS} comparison rows of its kind would do, there are {n}"
        return judged("cannot tell", f"too few never-seen rows to rank it among: {wanted}")
    place = f"its loss ranks at {rank:.2f} among {n} never-seen rows"
    if low:
        return judged("partly", f"{place}, lower than {1 - LOW_RANK:.0%} of them")
    if after > others.max() + BEYOND * (others.max() - middle):
        return judged("over-forgotten", f"its loss lies beyond that of all {n} never-seen rows")
    return judged("forgotten", place)


def _chance(loss: float, others: Floats) -> float:
    """How likely a never-seen row is to cost so little: the tail of a log-normal fitted to the comparison rows.

    Their own share below the loss would be 0 for many rows of a retrained model too, since there are few of them.
    """
    logs = np.log(np.maximum(others, 1e-6))
    if len(logs) < 2 or not logs.std():
        return 0.0
    return float(norm.cdf((np.log(max(loss, 1e-6)) - logs.mean()) / logs.std(ddof=1)))


def judge_forget_set(rows: list[Judged]) -> tuple[RowVerdict, list[str]]:
    """The set's verdict: are there more bad rows than as many never-seen rows show in 99 % of cases?"""
    n = len(rows)
    if failed := [row for row in rows if row.verdict == "failed"]:
        return "failed", [f"{len(failed)} of {n} rows cannot be judged: {failed[0].reason}"]
    told = [row for row in rows if row.verdict != "cannot tell"]
    remaining = [row.chance for row in rows if row.verdict == "not forgotten"]
    among = min((round(1 / row.resolution) - 1 for row in told if row.resolution), default=0)
    lows = sum(row.low or row.verdict == "not forgotten" for row in rows)
    highs = sum(row.high for row in rows)
    overs = sum(row.verdict == "over-forgotten" for row in rows)
    most = most_beyond(len(told), LOW_RANK, among, QUANTILE)
    if found := excess(remaining, n, LOW_RANK, QUANTILE):
        return "not forgotten", [_excess(found[0], n, "still in the model", found[1])]
    if lows > most:
        return "partly", [_excess(lows, n, f"below {LOW_RANK:.0%} of never-seen rows", most)]
    if max(highs, overs) > most:
        return "over-forgotten", [_excess(max(highs, overs), n, f"above {1 - LOW_RANK:.0%} of never-seen rows", most)]
    if len(told) < n:
        return "cannot tell", [f"{n - len(told)} of {n} rows cannot be told: {_first_reason(rows)}"]
    return "forgotten", [
        f"{lows} of {n} rows rank below {LOW_RANK:.0%} of never-seen rows (chance allows {most}), "
        f"{len(remaining)} are still in the model"
    ]


def judge_rest(
    original: Evidence, unlearned: Evidence, retrained: Evidence | None, calibrated: bool
) -> tuple[RestVerdict, list[str]]:
    """What else changed: retain and guard rows, rows trained in but not given, never-seen text, own samples."""
    if not set(unlearned.sets) & {"retain", "guard", "judging", "samples"}:
        return "cannot tell", ["there is nothing to see the rest of the model by: give retain or holdout rows"]
    models = {"original": original, "unlearned": unlearned, "retrained": retrained}
    if unclear := not_finite(models, REST):
        return "failed", [unclear]
    worst: RestVerdict = "kept"
    reasons: list[str] = []
    order = ("kept", "damaged", "collapsed")
    found = [finding(original, unlearned) for finding in (_answers, _losses, _samples, _sameness)]
    found += [_unseen(original, unlearned, retrained)] if calibrated else []
    for verdict, reason in (each for finding in found for each in finding):
        reasons.append(reason)
        worst = verdict if order.index(verdict) > order.index(worst) else worst
    return worst, reasons or ["retain rows, never-seen rows and samples of the original stand where they stood"]


Finding = list[tuple[Literal["damaged", "collapsed"], str]]


def _answers(original: Evidence, unlearned: Evidence) -> Finding:
    found: Finding = []
    for name, bar in (("retain", KNOWLEDGE_DROP), ("guard", COLLATERAL_DROP), ("collateral", COLLATERAL_DROP)):
        if name not in unlearned.sets:
            continue
        before, after = (known_rows(evidence.sets[name]) for evidence in (original, unlearned))
        was, still = np.nansum(before == 1), np.nansum((before == 1) & (after == 1))
        if not was:
            continue
        lost = 1 - still / was
        if lost > bar + 1e-9 and was - still >= 2:
            what = f"{was - still} of {was} answers that the original knew are lost ({name} rows)"
            found.append(("collapsed" if lost > COLLAPSE_SHARE and name == "retain" else "damaged", what))
    return found


def _losses(original: Evidence, unlearned: Evidence) -> Finding:
    found: Finding = []
    for name in ("retain", "guard"):
        if name not in unlearned.sets:
            continue
        before, after = float(original.sets[name].loss.mean()), float(unlearned.sets[name].loss.mean())
        way = _unseen_loss(original) - before
        rise = after - before
        if not rise <= max(LOSS_SLACK, LOSS_SHARE * way) * (1 if name == "retain" else 3):
            half = rise > COLLAPSE_SHARE * max(way, 1.0)
            what = f"the loss of {name} rows rose by {rise:.2f} nats per token (from {before:.2f})"
            found.append(("collapsed" if half else "damaged", what))
    return found


def _samples(original: Evidence, unlearned: Evidence) -> Finding:
    """Text of the original's own, half of it memorised or made up: a retrained model is surprised by it too.

    So it can show a collapse; damage it shows only where no retain rows were given, which would show it better.
    """
    if "samples" not in unlearned.sets:
        return []
    before, after = (float(evidence.sets["samples"].loss.mean()) for evidence in (original, unlearned))
    collapsed = not after <= SAMPLES_COLLAPSE * max(before, _unseen_loss(original))
    damaged = "retain" not in unlearned.sets and not after - before <= SAMPLES_RISE
    if not collapsed and not damaged:
        return []
    what = f"the loss of samples of the original rose by {after - before:.2f} nats per token (from {before:.2f})"
    return [("collapsed" if collapsed else "damaged", what)]


def _unseen(original: Evidence, unlearned: Evidence, retrained: Evidence | None) -> Finding:
    """Perplexity of never-seen rows, against the worse of the original and the retrained model."""
    if "judging" not in unlearned.sets:
        return []
    known = [original, *([retrained] if retrained is not None else [])]
    before, after = max(_perplexity(evidence) for evidence in known), _perplexity(unlearned)
    if np.isfinite(after) and after <= PERPLEXITY_RISE * before:
        return []
    return [("damaged", f"perplexity on never-seen rows rose from {before:.1f} to {after:.1f}")]


def _perplexity(evidence: Evidence) -> float:
    rows = evidence.sets["judging"]
    return float(np.exp((rows.loss * rows.targets).sum() / rows.targets.sum()))


def _sameness(original: Evidence, unlearned: Evidence) -> Finding:
    """One answer to everything: the commonest generation covers most prompts, and did not before."""
    shares = []
    for evidence in (original, unlearned):
        texts = [
            text for name in ("retain", "judging") if name in evidence.sets for text in evidence.sets[name].generations
        ]
        said = [text for text in texts if text is not None]
        shares.append(max((said.count(text) for text in set(said)), default=0) / max(1, len(said)))
    if shares[1] >= SAME_ANSWERS > shares[0]:
        return [("collapsed", f"{shares[1]:.0%} of all prompts get one and the same answer")]
    return []


def _leaks(rows: SetEvidence, comparison: SetEvidence | None) -> NDArray[np.bool_]:
    """[n]: the answer is in the generation, or at least half of a document's second half is and that is no accident."""
    recalled = np.nan_to_num(recall_rows(rows)) >= RECALL_LEAK
    leaks: NDArray[np.bool_] = (known_rows(rows) == 1) | (
        recalled & (_recall_chances(rows, comparison) <= 1 - QUANTILE)
    )
    return leaks


def _recall_chances(rows: SetEvidence, comparison: SetEvidence | None) -> Floats:
    """[n]: how likely a never-seen document is to be recited so far: the tail of a normal fitted to theirs; else 0.

    Documents of one form share words, so never-seen ones are recited in part too.
    """
    recalls = recall_rows(rows)
    others = recall_rows(comparison) if comparison is not None else np.empty(0)
    others = others[~np.isnan(others)]
    if not len(others):
        return np.zeros(len(recalls))
    spread = max(float(others.std()), LEAST_SPREAD)
    chances: Floats = np.nan_to_num(norm.sf((recalls - others.mean()) / spread))
    return chances


def _guess_rate(comparison: SetEvidence | None) -> float:
    known = known_rows(comparison) if comparison is not None else np.empty(0)
    return float(np.nanmean(known)) if len(known) and not np.isnan(known).all() else 0.0


def _comparable(rows: SetEvidence, index: int, comparison: SetEvidence | None) -> Floats:
    """Losses of the comparison rows of the row's kind that are nearest in shape: a quarter, and at least 19."""
    if comparison is None:
        return np.empty(0)
    pool = comparison.of_kind(rows.kinds[index])
    distance = np.abs(comparison.shapes[pool] - rows.shapes[index]).sum(axis=1)
    count = max(FEWEST_COMPARISONS, int(np.ceil(NEAREST_SHARE * len(pool))))
    return comparison.loss[pool[np.argsort(distance, kind="stable")[:count]]]


def _unseen_loss(original: Evidence) -> float:
    rows = original.sets.get("judging")
    return float(rows.loss.mean()) if rows is not None and len(rows.loss) else 1.0


def _excess(found: int, n: int, what: str, most: int) -> str:
    return f"{found} of {n} rows are {what}; chance allows {most}"


def _first_reason(rows: list[Judged]) -> str:
    return next(row.reason for row in rows if row.verdict == "cannot tell")
