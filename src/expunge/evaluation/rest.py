"""The verdict on the rest of the model: retain and guard rows, rows trained in but not given, never-seen text, samples.

From evidence alone. Where losses were not taken, what was said can show damage, and cannot show that there is none; so
it is where no row was looked at that the model was trained on and is to keep: never-seen rows and samples of the
original stand where they stood while half of what it memorised is lost (docs/decisions.md). Thresholds and their
reasons: `docs/concepts.md`.
"""

from typing import Literal

import numpy as np

from expunge.reporting.finding import RestVerdict
from expunge.scoring.evidence import Evidence, not_finite
from expunge.scoring.matching import known_rows

KNOWLEDGE_DROP = 0.05
COLLATERAL_DROP = 0.2
LOSS_SHARE = 0.05
LOSS_SLACK = 0.05
PERPLEXITY_RISE = 1.2
SAMPLES_COLLAPSE = 1.5
SAMPLES_RISE = 0.2
SAME_ANSWERS = 0.8
COLLAPSE_SHARE = 0.5
TRAINED_IN = ("retain", "guard", "collateral")
REST = (*TRAINED_IN, "judging", "samples")
NAMES = {
    "collateral": "rows that were trained in and not given",
    "judging": "never-seen rows",
    "samples": "samples of the original",
}


def judge_rest(
    original: Evidence, unlearned: Evidence, retrained: Evidence | None, calibrated: bool
) -> tuple[RestVerdict, list[str]]:
    """What else changed: retain and guard rows, rows trained in but not given, never-seen text, own samples."""
    models = {"original": original, "unlearned": unlearned, "retrained": retrained}
    if unclear := not_finite(models, REST):
        return "failed", [unclear]
    missing = [f"{name}: {rows.no_losses}" for name, rows in unlearned.sets.items() if name in REST and rows.no_losses]
    unseen = not any(name in unlearned.sets for name in TRAINED_IN)
    worst: RestVerdict = "cannot tell" if missing or unseen else "kept"
    reasons: list[str] = []
    order = ("kept", "cannot tell", "damaged", "collapsed")
    found = [finding(original, unlearned) for finding in (_answers, _losses, _samples, _sameness)]
    found += [_unseen(original, unlearned, retrained)] if calibrated else []
    for verdict, reason in (each for finding in found for each in finding):
        reasons.append(reason)
        worst = verdict if order.index(verdict) > order.index(worst) else worst
    if missing:
        reasons.append(f"answers alone do not show that the rest is as it was; no losses of {missing[0]}")
    if unseen:
        reasons.append(
            "no row was given that the model was trained on and is to keep, so nothing shows what it lost of those: "
            "give some (--retain)"
        )
    if reasons:
        return worst, reasons
    sets = [name for name in REST if name in unlearned.sets and (calibrated or name != "judging")]
    *some, last = [NAMES.get(name, f"{name} rows") for name in sets]  # one at least: else it is said above
    every = f"{', '.join(some)} and {last}" if some else last
    return worst, [f"{every} stand where they stood"]


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
        if name not in unlearned.sets or unlearned.sets[name].no_losses:
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
    if "samples" not in unlearned.sets or unlearned.sets["samples"].no_losses:
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
    if "judging" not in unlearned.sets or unlearned.sets["judging"].no_losses:
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


def _unseen_loss(original: Evidence) -> float:
    rows = original.sets.get("judging")
    return float(rows.loss.mean()) if rows is not None and len(rows.loss) else 1.0
