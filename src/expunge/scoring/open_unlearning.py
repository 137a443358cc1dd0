"""TOFU's figures as open-unlearning writes them (TOFU_EVAL.json, TOFU_SUMMARY.json) and as TOFU's own code does.

Read from locuslab/open-unlearning d3d7cf9, `src/evals`, and locuslab/tofu bdc209e, `aggregate_eval_stat.py`. Metrics
are named as in the first's `configs/eval/tofu_metrics`; each has `agg_value` and, by the number of a row from 0,
`value_by_index`. Numbers only: the prompts, answers and generations that open-unlearning keeps beside its ROUGE scores
are left out, and with them `rouge1_recall` and `rougeL_f1`.

Departures of what is written. (1) Truth ratios have no 1e-10 in their denominators (see `scoring.answers`).
(2) Attacks compare with the judging half of the holdout. `extraction_strength` is theirs: 1 / T where nothing can be
extracted.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import numpy as np

from expunge.errors import InputError
from expunge.scoring import answers as arithmetic
from expunge.scoring.answers import Answers
from expunge.scoring.figures import Attacked, Figures
from expunge.scoring.intervals import Floats

EVALUATION, SUMMARY = "TOFU_EVAL.json", "TOFU_SUMMARY.json"
PREFIXES = {"forget": "forget", "retain": "retain", "real authors": "ra", "world facts": "wf"}
ATTACKS = {"loss": "mia_loss", "zlib": "mia_zlib", "min_k": "mia_min_k", "min_k++": "mia_min_k_plus_plus"}
SUMMED = (  # the suite that `configs/eval/tofu.yaml` runs, and so a summary has
    *("forget_truth_ratio", "forget_quality", "forget_Q_A_Prob", "forget_Q_A_ROUGE", "model_utility", "privleak"),
    "extraction_strength",
)
LOGS = {
    "forget": "eval_log_forget.json",
    "retain": "eval_log.json",
    "real authors": "eval_real_author_wo_options.json",
    "world facts": "eval_real_world_wo_options.json",
}
Content = Mapping[str, Any]


def evaluation(figures: Figures, totals: Mapping[str, float], lengths: Floats | None = None) -> dict[str, object]:
    """The content of TOFU_EVAL.json. `totals`: forget_quality, model_utility and privleak, those that there are;
    `lengths` [n]: tokens of the forget answers, which their extraction strength needs."""
    found: dict[str, Any] = {name: {"agg_value": value} for name, value in totals.items()}
    for name, one in figures.sets.items():
        found |= _of_set(name, PREFIXES[name], one) if len(one) else {}
    if figures.extraction is not None and lengths is not None:
        floor = 1 / np.maximum(lengths, 1)
        found["extraction_strength"] = _scored(np.maximum(figures.extraction, floor))
    if figures.memorised is not None:
        found["exact_memorization"] = _scored(figures.memorised)
    for name, attacked in figures.attacks.items():
        if len(attacked.members) and len(attacked.others):
            found[ATTACKS[name]] = _attack(attacked)
    return dict(sorted(found.items()))


def summary(evaluated: Content) -> dict[str, float]:
    """The content of TOFU_SUMMARY.json for that of TOFU_EVAL.json."""
    known = {name: evaluated[name]["agg_value"] for name in sorted(SUMMED) if name in evaluated}
    return {name: value for name, value in known.items() if value is not None}


def read(content: Any, where: str) -> Figures:
    """From the content of TOFU_EVAL.json, or of TOFU's own eval_log_aggregated.json. Raises `InputError`."""
    try:
        own = {name: _of_log(content[file]) for name, file in LOGS.items() if file in content}
        if own:
            return Figures(own)
        sets = {
            name: _read_set(content, name, prefix)
            for name, prefix in PREFIXES.items()
            if f"{prefix}_Q_A_Prob" in content
        }
        attacks = {name: _read_attack(content[key]) for name, key in ATTACKS.items() if key in content}
        scores = [_column(content.get(key), "score") for key in ("extraction_strength", "exact_memorization")]
    except (AttributeError, KeyError, TypeError, ValueError):
        sets = {}
    if not sets:
        raise InputError(
            f"{where}: not the scores of a model on TOFU. Give {EVALUATION} of open-unlearning, or "
            "eval_log_aggregated.json of TOFU's own code, as they were written."
        )
    return Figures(sets, scores[0], scores[1], attacks)


def _of_set(name: str, prefix: str, one: Answers) -> dict[str, dict[str, object]]:
    found = {f"{prefix}_Q_A_Prob": _losses(one.loss)}
    known = one.recall[~np.isnan(one.recall)]
    if len(known):
        found[f"{prefix}_Q_A_ROUGE"] = _by_index(one.recall, "rougeL_recall") | {"agg_value": _mean(known)}
    if not one.compared.all():
        return found
    log_ratio = arithmetic.geometric(one)
    if prefix in ("forget", "retain"):
        found[f"{prefix}_Q_A_PARA_Prob"] = _losses(one.true)
    found[f"{prefix}_Q_A_PERT_Prob"] = _losses(one.wrong)
    kind: Callable[[Floats], Floats] = arithmetic.true_better
    key = f"{prefix}_Truth_Ratio"
    if name == "forget":
        kind, key = arithmetic.closer_to_one, "forget_truth_ratio"
    found[key] = _scored(arithmetic.ratio(log_ratio)) | {"agg_value": _mean(kind(log_ratio))}
    if prefix in ("ra", "wf"):
        found[f"{prefix}_Q_A_Prob_normalised"] = _by_index(arithmetic.among_options(one), "prob")
    return found


def _losses(losses: Floats) -> dict[str, object]:
    """Of one answer a row [n], or of several [n, K]."""
    probabilities = arithmetic.probability(losses)
    means = probabilities
    if losses.ndim == 2:
        count = (~np.isnan(losses)).sum(axis=1)
        means = np.nan_to_num(probabilities).sum(axis=1) / np.where(count > 0, count, np.nan)
    pairs = zip(probabilities.tolist(), losses.tolist(), strict=True)
    by_index = {str(index): {"prob": _plain(p), "avg_loss": _plain(loss)} for index, (p, loss) in enumerate(pairs)}
    return {"agg_value": _mean(means), "value_by_index": by_index}


def _plain(value: float | list[float]) -> float | list[float] | None:
    """None for what is not a number; of a list, what is one."""
    if isinstance(value, list):
        return [one for one in value if not math.isnan(one)]
    return _number(value)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _scored(values: Floats) -> dict[str, object]:
    return _by_index(values, "score")


def _by_index(values: Floats, key: str) -> dict[str, object]:
    by_index = {str(index): {key: _plain(value)} for index, value in enumerate(values.tolist())}
    return {"agg_value": _mean(values), "value_by_index": by_index}


def _mean(values: Floats) -> float | None:
    return _number(float(values.mean())) if len(values) else None


def _attack(found: Attacked) -> dict[str, object]:
    above = (found.others[None, :] > found.members[:, None]).mean()
    area = float(above + 0.5 * (found.others[None, :] == found.members[:, None]).mean())
    return {"forget": _scored(found.members), "holdout": _scored(found.others), "auc": area, "agg_value": area}


def _read_set(content: Content, name: str, prefix: str) -> Answers:
    loss = _needed(content[f"{prefix}_Q_A_Prob"], "avg_loss")
    true = _column(content.get(f"{prefix}_Q_A_PARA_Prob"), "avg_loss")
    wrong = _column(content.get(f"{prefix}_Q_A_PERT_Prob"), "avg_loss")
    recall = _column(content.get(f"{prefix}_Q_A_ROUGE"), "rougeL_recall")
    nothing = np.full(len(loss), np.nan)
    return _answers(
        loss, true, np.empty((len(loss), 0)) if wrong is None else wrong, nothing if recall is None else recall
    )


def _of_log(log: Content) -> Answers:
    """One data set of TOFU's own log: columns by row, as a list or by the row's number."""
    names = ("avg_gt_loss", "avg_paraphrased_loss", "average_perturb_loss", "rougeL_recall")
    columns = [log[name] for name in names]
    loss, true, wrong, recall = (_table(list(one.values()) if isinstance(one, dict) else one) for one in columns)
    return _answers(loss, true, wrong, recall)


def _answers(loss: Floats, true: Floats | None, wrong: Floats, recall: Floats) -> Answers:
    true = loss if true is None else true
    if (
        not loss.ndim == true.ndim == recall.ndim == 1
        or wrong.ndim != 2
        or len({*map(len, (loss, true, wrong, recall))}) > 1
    ):
        raise ValueError("columns of different lengths")
    return Answers(loss, true, wrong, recall)


def _read_attack(found: Content) -> Attacked:
    return Attacked(_needed(found["forget"], "score"), _needed(found["holdout"], "score"))


def _column(found: Content | None, key: str) -> Floats | None:
    return None if found is None else _needed(found, key)


def _needed(found: Content, key: str) -> Floats:
    ordered = sorted(found["value_by_index"].items(), key=lambda item: int(item[0]))
    return _table([one[key] for _, one in ordered])


def _table(values: Sequence[float] | Sequence[list[float]]) -> Floats:
    """[n], or [n, K] with nan where a row has fewer."""
    if not values or not isinstance(values[0], list):
        return np.array(values, dtype=np.float64)
    rows = cast("Sequence[list[float]]", values)
    most = max(map(len, rows))
    return np.array([[*row, *[np.nan] * (most - len(row))] for row in rows], dtype=np.float64)
