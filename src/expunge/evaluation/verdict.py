"""Verdicts in words, from evidence alone: per forget row, for the forget set, for the rest of the model (`rest`).

A forget row is compared with *comparison rows*: rows the model never saw, of the same kind and where there are enough
of about the same length, under the same (unlearned) model. Thresholds and their reasons: `docs/concepts.md`.
"""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from expunge.evaluation.rest import judge_rest
from expunge.reporting.finding import RestVerdict, RowVerdict
from expunge.scoring.chance import FEWEST_COMPARISONS, beyond, excess, most_beyond, most_given, tail
from expunge.scoring.evidence import Evidence, SetEvidence, not_finite
from expunge.scoring.matching import RECALL_LEAK, known_rows, recall_rows

Floats = NDArray[np.float64]
LOW_RANK = 0.05
HALFWAY = 0.5
NEAR_KNOWN = 0.1
BEYOND = 0.25
LEAST_SPREAD = 0.05
QUANTILE = 0.99
SIZE_QUANTILE = 0.998
RARE = 0.01
NEAREST_SHARE = 0.25


@dataclass(frozen=True, slots=True)
class Judged:
    """One forget row: verdict, its reason in words, rank among its comparison rows and the rank's resolution.

    `chance`: how likely a never-seen row is to look as familiar, by its loss, or by a guessed answer for a leak; of an
    over-forgotten one as strange. `lucky`: what that is at least, for all that its comparison rows can show.
    """

    verdict: RowVerdict
    reason: str
    rank: float | None
    resolution: float | None
    low: bool = False
    high: bool = False
    chance: float = 0.0
    lucky: float = 0.0


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
    guessed, recited = _guess_rate(after, leaks, comparison), _recall_chances(after, comparison)
    chances = [guessed if kind == "answer" else float(recited[index]) for index, kind in enumerate(after.kinds)]
    if alone := after.no_losses or (comparison.no_losses if comparison is not None else ""):
        return [_by_answer(bool(leak), chance, alone) for leak, chance in zip(leaks, chances, strict=True)]
    return [
        Judged("failed", unclear or "its loss is not a finite number", None, None)
        if unclear or not known[index]
        else _judge_row(
            before=float(before.loss[index]),
            after=float(after.loss[index]),
            others=_comparable(after, index, comparison),
            leak=bool(leaks[index]),
            guessed=chances[index],
        )
        for index in range(len(after.kinds))
    ]


def _by_answer(leak: bool, guessed: float, why: str) -> Judged:
    """Of a row without losses: what is given back shows that it is known, and what is not shows nothing."""
    if leak and guessed <= LOW_RANK:
        return Judged("not forgotten", "the model still gives the content of this row", None, None, chance=guessed)
    said = "gives its content, as it does of never-seen rows," if leak else "does not give its content"
    return Judged("cannot tell", f"the model {said} and its loss is not known: {why}", None, None)


def _judge_row(before: float, after: float, others: Floats, leak: bool, guessed: float) -> Judged:
    n = len(others)
    below, ties = int((others < after).sum()), int((others == after).sum())
    rank, enough = (below + 0.5 * ties + 0.5) / (n + 1), n >= FEWEST_COMPARISONS
    low = enough and below + 0.5 * ties + 1 <= beyond(n, LOW_RANK)
    high = enough and n - below - 0.5 * ties + 1 <= beyond(n, LOW_RANK)
    middle = float(np.median(others)) if n else float("nan")
    way = (after - before) / (middle - before) if n and middle > before else 1.0
    as_low, as_high = tail(after, others)

    def judged(verdict: RowVerdict, reason: str) -> Judged:
        lucky = 1 / (n + 1) if enough and not leak and way >= NEAR_KNOWN else 0.0  # n rows cannot show that it is rarer
        chance = as_high if verdict == "over-forgotten" else guessed if leak else as_low if enough else 0.0
        return Judged(verdict, reason, rank if n else None, 1 / (n + 1) if n else None, low, high, chance, lucky)

    if leak and (low or not enough or guessed <= LOW_RANK):
        return judged("not forgotten", "the model still gives the content of this row")
    if n and way < HALFWAY and ((low and as_low <= RARE) or (not enough and after < others.min())):
        return judged("not forgotten", f"its loss went {way:.0%} of the way to that of never-seen rows")
    if not enough:
        wanted = f"{FEWEST_COMPARISONS} comparison rows of its kind would do, there are {n}"
        return judged("cannot tell", f"too few never-seen rows to rank it among: {wanted}")
    place = f"its loss ranks at {rank:.2f} among {n} never-seen rows"
    if low:
        return judged("partly", f"{place}, among the lowest {LOW_RANK:.0%}")
    if after > others.max() + BEYOND * (others.max() - middle):
        return judged("over-forgotten", f"its loss lies beyond that of all {n} never-seen rows")
    return judged("forgotten", place)


def judge_forget_set(rows: list[Judged]) -> tuple[RowVerdict, list[str]]:
    """The set's verdict: are there more bad rows than as many never-seen rows show in 99 % of cases?"""
    n = len(rows)
    if failed := [row for row in rows if row.verdict == "failed"]:
        return "failed", [f"{len(failed)} of {n} rows cannot be judged: {failed[0].reason}"]
    told = [row for row in rows if row.verdict != "cannot tell"]
    ranked = Counter(round(1 / row.resolution) - 1 for row in told if row.resolution)
    lows = sum(row.low or row.verdict == "not forgotten" for row in rows)
    highs = sum(row.high for row in rows)
    overs = sum(row.verdict == "over-forgotten" for row in rows)
    most = most_beyond(ranked, LOW_RANK, QUANTILE)
    if found := _too_many(rows):
        return "not forgotten", [_excess(found[0], n, "still in the model", found[1])]
    if lows > most:
        return "partly", [_excess(lows, n, f"among the lowest {LOW_RANK:.0%} of never-seen rows", most)]
    if found := _too_far(rows, "partly"):
        return "partly", [_excess(found[0], n, "far below never-seen rows", found[1])]
    if (high := max(highs, overs)) > most:
        return "over-forgotten", [_excess(high, n, f"among the highest {LOW_RANK:.0%} of never-seen rows", most)]
    if found := _too_far(rows, "over-forgotten"):
        return "over-forgotten", [_excess(found[0], n, "far beyond never-seen rows", found[1])]
    if len(told) < n:
        return "cannot tell", [f"{n - len(told)} of {n} rows cannot be told: {_first_reason(rows)}"]
    return "forgotten", [
        f"{lows} of {n} rows rank among the lowest {LOW_RANK:.0%} of never-seen rows (chance allows {most}), "
        f"{sum(row.verdict == 'not forgotten' for row in rows)} are still in the model"
    ]


def _too_many(rows: list[Judged]) -> tuple[int, int] | None:
    """Of the rows that are still in the model, how many never-seen rows do not make by chance, and how many these make.

    In a set of twenty rows, where one lucky row is to be expected, none counts as rarer than that.
    """
    least = [row.lucky if len(rows) * LOW_RANK >= 1 else 0.0 for row in rows]
    chances = [max(row.chance, lucky) for row, lucky in zip(rows, least, strict=True) if row.verdict == "not forgotten"]
    return excess(chances, len(rows), LOW_RANK, QUANTILE)


def _too_far(rows: list[Judged], verdict: RowVerdict) -> tuple[int, int] | None:
    """The same of rows with this verdict that lie farther from never-seen rows than one in a hundred: ranks do not say
    how far. Several counts are looked at, so each has a stricter quantile."""
    chances = [row.chance for row in rows if row.verdict == verdict and row.chance <= RARE]
    return excess(chances, len(rows), LOW_RANK, SIZE_QUANTILE)


def _leaks(rows: SetEvidence, comparison: SetEvidence | None) -> NDArray[np.bool_]:
    """[n]: the answer is in the generation, or at least half of a document's second half is and that is no accident."""
    recalled = np.nan_to_num(recall_rows(rows)) >= RECALL_LEAK
    leaks: NDArray[np.bool_] = (known_rows(rows) == 1) | (recalled & (_recall_chances(rows, comparison) <= RARE))
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


def _guess_rate(rows: SetEvidence, leaks: NDArray[np.bool_], comparison: SetEvidence | None) -> float:
    """Share of never-seen answers that are given; 0, as of what nobody guesses, where more forget answers are given
    than that explains."""
    known = known_rows(comparison) if comparison is not None else np.empty(0)
    known = known[~np.isnan(known)]
    if not len(known):
        return 0.0
    answers = np.array([kind == "answer" for kind in rows.kinds])
    most = most_given(int(answers.sum()), int(known.sum()), len(known), QUANTILE)
    return float(known.mean()) if leaks[answers].sum() <= most else 0.0


def _comparable(rows: SetEvidence, index: int, comparison: SetEvidence | None) -> Floats:
    """Losses of the comparison rows of the row's kind that are nearest in shape: a quarter, and at least 19."""
    if comparison is None:
        return np.empty(0)
    pool = comparison.of_kind(rows.kinds[index])
    distance = np.abs(comparison.shapes[pool] - rows.shapes[index]).sum(axis=1)
    count = max(FEWEST_COMPARISONS, int(np.ceil(NEAREST_SHARE * len(pool))))
    return comparison.loss[pool[np.argsort(distance, kind="stable")[:count]]]


def _excess(found: int, n: int, what: str, most: int) -> str:
    return f"{found} of {n} rows are {what}; chance allows {most}"


def _first_reason(rows: list[Judged]) -> str:
    return next(row.reason for row in rows if row.verdict == "cannot tell")
