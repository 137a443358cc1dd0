"""The demo over seeds, held against the bars that were set before the method was tuned.

    python benchmarks/demo_seeds.py --seeds 10 11 12 --output docs/results/demo.json

Prints and writes, per seed: knowledge of forget rows before and after and in the twin, quartiles of forget losses over
the twin's, AUC on the judging half with the twin's interval, knowledge of the retain rows given and of trained-in rows
not given, perplexity of never-seen rows, the verdict, seconds. Every bar is reported, passed or not.
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from expunge import pipeline
from expunge.config.housekeeping import Demo
from expunge.files.typed import plain
from expunge.runs.environment import environment


def measure(record: dict[str, Any]) -> dict[str, Any]:
    """The figures of one run's record."""
    scores = {(s["metric"], s["set"], s["model"]): s for s in record["scores"]}

    def value(metric: str, name: str, model: str) -> float:
        return float(scores[metric, name, model]["value"])

    losses = record["losses"]["forget"]
    quartiles = {model: np.quantile(losses[model], [0.25, 0.5, 0.75]) for model in ("unlearned", "retrained")}
    twin = scores["loss_attack", "forget", "retrained"]
    return {
        "known_before": value("knowledge", "forget", "original"),
        "known_after": value("knowledge", "forget", "unlearned"),
        "known_twin": value("knowledge", "forget", "retrained"),
        "quartiles_over_twin": (quartiles["unlearned"] / quartiles["retrained"]).round(3).tolist(),
        "auc": value("loss_attack", "forget", "unlearned"),
        "auc_twin_interval": [twin["low"], twin["high"]],
        "retain_known_original": value("knowledge", "retain", "original"),
        "retain_known": value("knowledge", "retain", "unlearned"),
        "guard_known": value("knowledge", "guard", "unlearned"),
        "collateral_known_original": value("knowledge", "collateral", "original"),
        "collateral_known": value("knowledge", "collateral", "unlearned"),
        "perplexity": {
            model: value("perplexity", "judging", model) for model in ("original", "unlearned", "retrained")
        },
        "verdict": {key: record["verdict"][key] for key in ("forget", "rest", "passes", "counts")},
        "method": record["method"]["name"],
        "row_passes": record["method"]["row_passes"],
        "seconds": record["seconds"],
    }


def bars(figures: dict[str, Any]) -> dict[str, bool]:
    """The bars of the demo; collateral has none."""
    perplexity = figures["perplexity"]
    low, high = figures["auc_twin_interval"]
    return {
        "known before >= 0.9": figures["known_before"] >= 0.9,
        "known after within 0.1 of the twin": abs(figures["known_after"] - figures["known_twin"]) <= 0.1,
        "loss quartiles within 25 % of the twin's": all(0.75 <= q <= 1.25 for q in figures["quartiles_over_twin"]),
        "AUC within the twin's interval": low <= figures["auc"] <= high,
        "retain knowledge at most 0.05 lower": figures["retain_known"] >= figures["retain_known_original"] - 0.05,
        "perplexity at most 5 % above the worse of both": perplexity["unlearned"]
        <= 1.05 * max(perplexity["original"], perplexity["retrained"]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[10, 11, 12])
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    results = {}
    for seed in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            begin = time.perf_counter()
            run = pipeline.run_demo(Demo(output=str(Path(folder) / "demo"), seed=seed))
            figures = measure(plain(run.record)) | {"wall_seconds": round(time.perf_counter() - begin, 1)}
        results[str(seed)] = figures | {"bars": bars(figures)}
        print(seed, json.dumps(results[str(seed)], indent=1), flush=True)
        passed = sum(all(result["bars"].values()) for result in results.values())
        summary = {"seeds_that_meet_every_bar": passed, "seeds": results, "environment": environment()}
        arguments.output.write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    print(f"{passed} of {len(results)} seeds meet every bar")


if __name__ == "__main__":
    main()
