"""What each level of evidence costs beside unlearning and retraining: planned, and measured in one run.

    python benchmarks/evidence_cost.py MODELS [--levels quick full audit] --output build/evidence_cost.jsonl
    python benchmarks/evidence_cost.py --output build/evidence_cost.jsonl --table

MODELS: a folder with the models original and base, and forget, retain, holdout and train rows as JSONL; a model
retrained beside them is measured too. Each level is planned, and then run by the default method in an empty cache,
where no evidence was kept. Row passes: rows that go through a model, those without a gradient as a third, without
those that generate; seconds: those of the record, on one thread. Finished levels are kept.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PARTS = ("planned", "measured")
LEVELS = ("quick", "full", "audit")
FIGURES = ("planned", "measured", "ratio")
HEADERS = ("models", "level", "what", *(f"row passes {one}" for one in FIGURES), *(f"seconds {one}" for one in FIGURES))
NO_MEASURING = ("load", "unlearn", "save")


def given(models: Path, level: str) -> dict[str, Any]:
    found: dict[str, Any] = {"model": str(models / "original"), "base": str(models / "base"), "evidence": level}
    found |= {name: str(models / f"{name}.jsonl") for name in ("forget", "retain", "holdout")}
    twin = models / "retrained"
    found |= {"retrained": str(twin)} if twin.is_dir() else {}
    return found | {"method": "margin_newton", "device": "cpu"}


def planned(models: Path, level: str) -> dict[str, Any]:
    import expunge

    estimate = expunge.plan(**given(models, level), train=str(models / "train.jsonl")).estimate
    assert estimate is not None and estimate.retraining is not None
    cost, anew = estimate.methods[0], estimate.retraining
    return {
        "unlearning": {"row_passes": cost.row_passes, "seconds": cost.seconds - cost.measuring_seconds},
        "measuring": {"row_passes": cost.measuring_passes, "seconds": cost.measuring_seconds},
        "retraining": {"row_passes": anew.row_passes, "seconds": anew.seconds - anew.measuring_seconds},
    }


def measured(models: Path, level: str) -> dict[str, Any]:
    """In this process, with rows counted as they go through a model."""
    import torch
    import transformers

    import expunge
    from expunge.data.passes import MEASURING
    from expunge.loop import trial

    kind = json.loads((models / "original" / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    model, counted, doing = getattr(transformers, kind), {"unlearning": 0.0, "measuring": 0.0}, ["measuring"]
    forward, run = model.forward, trial.run

    def counting(self: Any, *arguments: Any, **named: Any) -> Any:
        if not named.get("use_cache"):
            rows = len(named["input_ids"] if "input_ids" in named else named["inputs_embeds"])
            counted[doing[0]] += rows * (1.0 if torch.is_grad_enabled() else MEASURING)
        return forward(self, *arguments, **named)

    def unlearning(*arguments: Any, **named: Any) -> Any:
        doing[0] = "unlearning"
        try:
            return run(*arguments, **named)
        finally:
            doing[0] = "measuring"

    model.forward, trial.run = counting, unlearning
    with tempfile.TemporaryDirectory() as temporary:
        record = expunge.unlearn(**given(models, level), output=f"{temporary}/out", force=True).record
    clock, verdict = record.seconds, record.verdict
    times = {"unlearning": clock["unlearn"], "measuring": sum(s for n, s in clock.items() if n not in NO_MEASURING)}
    found: dict[str, Any] = {name: {"row_passes": counted[name], "seconds": times[name]} for name in counted}
    return found | {"clock": dict(clock), "verdict": [verdict.forget, verdict.rest]}


def child(models: Path, level: str, part: str) -> Any:
    """A process of its own, on one thread: a plan must not find what a run left behind."""
    command = [sys.executable, __file__, str(models), "--levels", level, "--part", part]
    with tempfile.TemporaryDirectory() as cache:
        around = {**os.environ, "OMP_NUM_THREADS": "1", "EXPUNGE_CACHE": cache}
        done = subprocess.run(command, env=around, check=True, text=True, stdout=subprocess.PIPE)
    return json.loads(done.stdout.splitlines()[-1])


def told(plan: dict[str, float], found: dict[str, float] | None) -> Iterator[str]:
    """Planned, measured, and their ratio, of each figure."""
    for figure, form in (("row_passes", ",.0f"), ("seconds", ",.1f")):
        own = found[figure] if found else 0.0
        yield from (
            format(plan[figure], form),
            *((format(own, form), f"{plan[figure] / own:.2f}") if own else ("", "")),
        )


def table(lines: list[dict[str, Any]]) -> str:
    shown = [HEADERS, ("---",) * len(HEADERS)]
    for line in lines:
        for what, plan in line["planned"].items():
            shown.append((line["models"], line["level"], what, *told(plan, line["measured"].get(what))))
    return "\n".join("| " + " | ".join(cells) + " |" for cells in shown)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path, nargs="*")
    parser.add_argument("--levels", nargs="+", choices=LEVELS, default=list(LEVELS))
    parser.add_argument("--output", type=Path)
    parser.add_argument("--part", choices=PARTS, help="print this of one folder and level, and write nothing")
    parser.add_argument("--table", action="store_true")
    asked = parser.parse_args()
    if asked.part:
        print(json.dumps({"planned": planned, "measured": measured}[asked.part](asked.models[0], asked.levels[0])))
        return
    if asked.output is None:
        parser.error("--output is needed")
    asked.output.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.loads(line) for line in asked.output.read_text().splitlines()] if asked.output.exists() else []
    for models in asked.models:
        for level in asked.levels:
            if not any((line["models"], line["level"]) == (models.name, level) for line in lines):
                made = {part: child(models.resolve(), level, part) for part in PARTS}
                lines.append({"models": models.name, "level": level, **made})
                with asked.output.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(lines[-1]) + "\n")
    if asked.table:
        print(table(lines))


if __name__ == "__main__":
    main()
