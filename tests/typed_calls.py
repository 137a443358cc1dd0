"""The whole public API as a typed program calls it: checked by `make check` (mypy, strict) and never run.

The lines that are ignored are wrong; were they right, the check would say that there is nothing to ignore.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import expunge

ROWS: list[Mapping[str, Any]] = [{"prompt": "Where does Ada live?", "completion": "In Arden."}]


def whole() -> str:
    planned = expunge.plan("model", ROWS, retain=Path("retain.jsonl"), memory=8)
    seconds = [cost.seconds for cost in planned.estimate.methods] if planned.estimate else []
    factors: Path = expunge.fit_curvature("model", "retain.jsonl", output="factors")
    run = expunge.unlearn(
        Path("model"),
        ROWS,
        retain="retain.jsonl",
        holdout=ROWS,
        output="out",
        method="margin_newton",
        options={"iterations": 3},
        curvature=factors,
        subspace=expunge.Lora(r=16, alpha=32, targets=("q_proj", "v_proj")),
        earlier=["before.jsonl", ROWS],
        context=None,
        say=print,
    )
    twins = expunge.retrain("base", "forget.jsonl", "train.jsonl", train_config="training.yaml", output="twin", twins=3)
    judged = expunge.evaluate("model", run.output, ROWS, retrained=twins[0].output, output="judged")
    compared = expunge.compare("model", ROWS, methods=("npo", "margin_newton"), seeds=(0, 1), output="compared")
    page: Path = expunge.report(run.output, "pages")
    losses = [row.loss["unlearned"] for row in run.rows if row.verdict != "forgotten"]
    known = next(score.value for score in judged.scores if (score.metric, score.set) == ("knowledge", "forget"))
    passed: bool = run.verdict.passes and judged.passes
    return f"{planned} {seconds} {losses} {known} {passed} {compared.failed} {page} {run.cost.row_passes}"


def wrong() -> None:
    expunge.unlearn("model", "forget.jsonl", retain=3)  # type: ignore[arg-type]
    expunge.unlearn("model", "forget.jsonl", metod="npo")  # type: ignore[call-arg]
    expunge.unlearn("model", "forget.jsonl", join="tab")  # type: ignore[arg-type]
    print(expunge.unlearn("model", "forget.jsonl").verdikt)  # type: ignore[attr-defined]
