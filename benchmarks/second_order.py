"""Second-order methods on LUME rows: does a curvature earn its place there, and how do the papers' methods do?

    python benchmarks/second_order.py --lume FOLDER [--most-minutes 170] [--page docs/results/lume_second_order.md]
    (or: make lume-second-order LUME=FOLDER)

Uses the rows, models and twins of benchmarks/lume_small.py, and the variants of recipes/lume_second_order.yaml with the
controls of benchmarks/controls; the methods get half of the rows to keep. The parts, in this order: `uses`, a curvature
as Sophia's denominator and in LIBU's first phase, beside loss_matching, seeds 0, 1, 2; `tuning`, three trials of each
of the papers' families on seed 0, the best by mean absolute distance of the teacher-forced losses to the retrained
twin's; `tuned`, those with seeds 0, 1, 2; `ablation`, curvatures as a step at equal forget loss, seeds 0, 1, 2;
`three`, steps and starts of a descent for three documents in place of 220 rows, beside a twin of their own, seed 0.
Cells are kept, so the same command goes on after an interruption, and after `--most-minutes` it begins no further
stage. Two processes with different `--parts` and one thread each (OMP_NUM_THREADS=1) share two cores better than one
process with two.
"""

import argparse
import json
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import controls
import expunge
import lume_small
from ablation_tables import Cells, clipping, table, verdicts
from expunge.config.recipes import read_yaml
from expunge.runs.environment import environment
from lume_small import RECIPES, SIZES, TASKS, Size, fifth, read_fold

RECIPE = RECIPES / "lume_second_order.yaml"
SHUFFLED = {"step": "targets", "curvature": controls.path("shuffled_diagonal")}
CONTROLS: dict[str, dict[str, Any]] = {
    "libu_first@0.1": {"method": controls.path("libu_first"), "budget": 0.1},
    "libu_first@0.5": {"method": controls.path("libu_first"), "budget": 0.5},
    "libu_first@2": {"method": controls.path("libu_first"), "budget": 2.0},
    "step_shuffled": {"method": "fisher_removal", "cycles": 5, **SHUFFLED},
    "start_shuffled": {"method": "libu", "cycles": 2, **SHUFFLED, "optimiser": "adamw", "forget_rows": 12},
    "sophia_diagonal": {"method": controls.path("sophia_diagonal"), "forget_rows": 12},
    "sophia_identity": {"method": controls.path("sophia_identity"), "forget_rows": 12},
    "sophia_shuffled": {"method": controls.path("sophia_shuffled"), "forget_rows": 12},
}
SETS = ("forget", "retain", "guard", "collateral", "judging")
THREE_SEED = 0
FIXED = ("original", "retrained")  # cells that are no method's
PARTS = {
    "uses": "Does a curvature earn its place? As Sophia's denominator, in LIBU; 220 rows to forget",
    "tuning": "The papers' methods: trials at seed 0",
    "tuned": "The papers' methods: the best trial of each",
    "ablation": "Does a curvature earn its place? As a step, at equal forget loss; 220 rows to forget",
    "three": "Steps and starts for a request of three documents, seed 0",
}
SEEDS = ((0,), (0, 1), (0, 1, 2))


def variants() -> dict[str, Any]:
    """The recipe's, and the controls, which no recipe may name."""
    return {**read_yaml(RECIPE)["variants"], **CONTROLS}


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


def compare(
    size: Size,
    output: Path,
    names: list[str],
    seeds: tuple[int, ...],
    forget: str = "forget",
    retrained: str = "retrained",
) -> dict[str, Any]:
    """A comparison of these variants, from the cells that are kept; its folder is made anew."""
    shutil.rmtree(output, ignore_errors=True)
    data, models = size.work / "data", size.work / "models"
    rows = {"forget": forget, "retain": "retain_given", "holdout": "holdout", "train": "train"}
    paths = {role: data / f"{name}.jsonl" for role, name in rows.items()}
    paths |= {"model": models / "original", "base": models / "base", "retrained": models / retrained}
    chosen = {name: settings for name, settings in variants().items() if name in names}
    given = {role: str(path) for role, path in paths.items()} | {"recipe": str(RECIPE), "output": str(output)}
    done = expunge.compare(say=print, **given, variants=chosen, methods=tuple(names), seeds=seeds)
    if done.failed:
        raise SystemExit(f"{output}: {done.failed} cells failed")
    return dict(done.content)


def best_trials(content: dict[str, Any]) -> tuple[list[str], dict[str, float]]:
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


def by_seed(content: dict[str, Any]) -> Cells:
    """The cells of a comparison by seed, with the original and the first twin in each."""
    fixed = {cell["model"]: cell for cell in content["cells"] if cell["model"] in FIXED and not cell["seed"]}
    found: dict[int, dict[str, Any]] = {}
    for cell in content["cells"]:
        if cell["model"] not in FIXED:
            found.setdefault(cell["seed"], dict(fixed))[cell["model"]] = cell
    return found


def page(output: Path, size: Size) -> str:
    """All that was compared so far, part by part."""
    machine = environment()
    lines = [
        "# Second-order methods on LUME rows",
        "",
        "    make lume-second-order LUME=FOLDER",
        "",
        f"Rows of recipes/lume_small.yaml, a Llama of width {size.width} with {size.layers} layers; variants, tokens:",
        "recipes/lume_second_order.yaml, and the controls of benchmarks/second_order.py. The methods are given half of",
        "the rows to keep; the other half, the *reporting* rows, was trained in and is given to nothing.",
        "Losses and KL in nats per token; where there are several seeds, the mean with the smallest and the largest.",
        f"Machine: {machine['machine']}, torch {machine['versions']['torch']}, {machine['created'][:10]}.",
    ]
    for name, title in PARTS.items():
        file = output / name / "comparison.json"
        if not file.is_file():
            lines += ["", f"## {title}", "", "Not run yet."]
            continue
        cells = by_seed(json.loads(file.read_text(encoding="utf-8")))
        uses = verdicts(cells, "seeds")
        lines += ["", f"## {title}", "", *([*uses, ""] if uses else []), *table(cells)]
        lines += ["", *shares] if (shares := clipping(cells)) else []
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lume", type=Path, required=True, help="folder of the four public LUME folds")
    parser.add_argument("--size", choices=list(SIZES), default="small", help="large: 102 million, for a GPU")
    parser.add_argument("--most-minutes", type=float, default=float("inf"))
    parser.add_argument("--page", type=Path, help="Markdown file to write after each stage")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.most_minutes
    size = SIZES[arguments.size]
    output = size.work / "second_order"
    lume_small.prepare(arguments.lume, size.work / "data")
    halves(arguments.lume, size.work / "data")
    lume_small.make_models(size, 0)
    lume_small.make_twins(size, 0)
    output.mkdir(parents=True, exist_ok=True)
    for stage in stages(size, output, arguments.parts):
        if time.monotonic() > end:
            break
        stage()
        if arguments.page:
            arguments.page.write_text(page(output, size), encoding="utf-8")


def stages(size: Size, output: Path, parts: list[str]) -> Iterator[Callable[[], object]]:
    """What is to be compared, in the order of what matters most; each stage adds a seed, a request or a family."""
    names = list(variants())
    kinds = {kind: [name for name in names if name.startswith(kind)] for kind in ("step_", "start_", "sophia_", "libu")}
    whole_libu = [name for name in kinds["libu"] if "@" not in name]
    if "uses" in parts:
        for seeds in SEEDS:
            compared = ["loss_matching", *kinds["sophia_"], *whole_libu]
            yield partial(compare, size, output / "uses", compared, seeds)
    if "tuning" in parts:
        yield partial(tune, size, output, [name for name in names if "@" in name])
    if "tuned" in parts:
        best = json.loads((output / "tuning.json").read_text(encoding="utf-8"))["chosen"]
        for seeds in SEEDS[1:]:
            yield partial(compare, size, output / "tuned", best, seeds)
    steps = ["loss_matching", *kinds["step_"]]
    if "ablation" in parts:
        for seeds in SEEDS:
            yield partial(compare, size, output / "ablation", steps, seeds)
    if "three" in parts:
        yield partial(lume_small.twin, size, "three", "retrained_three", "--seed", str(THREE_SEED))
        small = {"forget": "three", "retrained": "retrained_three"}
        yield partial(compare, size, output / "three", [*steps, *kinds["start_"]], (THREE_SEED,), **small)


def tune(size: Size, output: Path, trials: list[str]) -> None:
    """All trials at seed 0; writes the distances, and the best of each family, to tuning.json."""
    best, distances = best_trials(compare(size, output / "tuning", trials, (0,)))
    content = json.dumps({"chosen": best, "distances": distances}, indent=1)
    (output / "tuning.json").write_text(content, encoding="utf-8")


if __name__ == "__main__":
    main()
