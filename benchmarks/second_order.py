"""Second-order methods on LUME rows: tuning, the table over three seeds, and a request of three documents.

    python benchmarks/second_order.py --lume FOLDER [--most-minutes 170]      (or: make lume-second-order LUME=FOLDER)

Uses the rows, models and twins of benchmarks/lume_small.py and recipes/lume_second_order.yaml, of which it gives
the methods half of the rows to keep. Three trials of each family on seed 0, the best by mean absolute distance of the
teacher-forced losses to the retrained twin's; then seeds 0, 1, 2; then three documents in place of 220 rows, beside a
twin of its own, with seed 0. Cells are kept, so the same command goes on after an interruption, and after
`--most-minutes` it begins no further stage. Writes the distances of all trials to OUTPUT/tuning.json.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np

import lume_small
from expunge.config import read_yaml
from lume_small import RECIPES, TASKS, WORK, fifth, read_fold, run

RECIPE = RECIPES / "lume_second_order.yaml"
SETS = ("forget", "retain", "guard", "collateral", "judging")
THREE_SEED = 0


def halves(lume: Path, data: Path) -> None:
    """Writes retain_given.jsonl, every other document of the retain rows of each task, and three.jsonl, one of each."""
    for fold, name, every, most in (("retain_train", "retain_given", 2, None), ("forget_train", "three", 1, 1)):
        documents = read_fold(lume, fold)
        chosen = fifth(documents)
        rows: list[dict[str, str]] = []
        for task in TASKS:
            keys = sorted(key for key in chosen if documents[key][0]["task"] == task)
            for key in keys[::every][:most]:
                rows.extend(documents[key])
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (data / f"{name}.jsonl").write_text(text, encoding="utf-8")


def distance(cell: dict[str, Any], twin: dict[str, Any]) -> float:
    """Mean over the sets of |mean loss - the twin's|, in nats per token."""
    keys = [f"loss:{name}" for name in SETS if f"loss:{name}" in twin["scores"]]
    gaps = [cell["scores"][key]["value"] - twin["scores"][key]["value"] for key in keys]
    return float(np.mean(np.abs(gaps)))


def compare(output: Path, names: list[str], *more: str) -> dict[str, Any]:
    """A comparison of these variants, from the cells that are kept; its folder is made anew."""
    shutil.rmtree(output, ignore_errors=True)
    run("compare", "--config", str(RECIPE), "--methods", *names, "--output", str(output), *more)
    content: dict[str, Any] = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    return content


def chosen(content: dict[str, Any]) -> tuple[list[str], dict[str, float]]:
    """The best trial of each family, and the distance of every trial."""
    twin = next(cell for cell in content["cells"] if cell["model"] == "retrained")
    distances = {
        cell["model"]: distance(cell, twin) for cell in content["cells"] if "@" in cell["model"] and not cell["error"]
    }
    families = dict.fromkeys(name.split("@")[0] for name in distances)
    best = [
        min((name for name in distances if name.split("@")[0] == family), key=distances.__getitem__)
        for family in families
    ]
    return best, distances


def three_twin(data: Path, models: Path) -> None:
    """The twin of the small request."""
    if not (models / "retrained_three").exists():
        rows = ["--forget", str(data / "three.jsonl"), "--train", str(data / "train.jsonl"), "--benchmark", "lume"]
        start = ["--model", str(models / "original"), "--base", str(models / "base")]
        how = ["--train-config", str(RECIPES / "lume_small_training.yaml"), "--seed", str(THREE_SEED)]
        run("retrain", *start, *rows, *how, "--output", str(models / "retrained_three"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lume", type=Path, required=True, help="folder of the four public LUME folds")
    parser.add_argument("--output", type=Path, default=WORK / "second_order")
    parser.add_argument("--most-minutes", type=float, default=float("inf"))
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.most_minutes
    data, models, output = WORK / "data", WORK / "models", arguments.output
    lume_small.prepare(arguments.lume, data)
    halves(arguments.lume, data)
    lume_small.make_models(WORK, 0)
    lume_small.make_twins(data, models, 0)
    names = list(read_yaml(RECIPE)["variants"])
    trials = [name for name in names if "@" in name]
    output.mkdir(parents=True, exist_ok=True)
    best, distances = chosen(compare(output / "tuning", trials, "--seeds", "0"))
    (output / "tuning.json").write_text(
        json.dumps({"chosen": best, "distances": distances}, indent=1), encoding="utf-8"
    )
    final = [*(name for name in names if "@" not in name), *best]
    for seeds in (["0"], ["0", "1"], ["0", "1", "2"]):
        if time.monotonic() < end:
            compare(output / "table", final, "--seeds", *seeds)
    if time.monotonic() < end:
        three_twin(data, models)
        request = ["--forget", str(data / "three.jsonl"), "--retrained", str(models / "retrained_three")]
        compare(output / "three", final, "--seeds", "0", *request)


if __name__ == "__main__":
    main()
