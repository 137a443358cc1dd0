"""Does a curvature earn its place: as a step, as Sophia's denominator? On worlds of fictional people.

    python benchmarks/curvature_ablation.py --worlds 3 4 5 --output docs/results/curvature_ablation.md

Makes the small world of each seed (expunge.demo: base, original, retrained twin; about a minute), compares the variants
of benchmarks/curvature_ablation.yaml and the controls of benchmarks/controls on it with that seed, and writes, per
variant: the forget loss, what the *reporting* rows (trained in, given to nothing) and the retain rows lost, and in how
many worlds the curvature beat the identity and its own shuffled copy. Worlds and cells are kept, so the same command
goes on after an interruption.
"""

import argparse
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import controls
import expunge
from ablation_tables import clipping, table, verdicts
from expunge.config.recipes import read_yaml
from expunge.demo.models import SMALL, make_models
from expunge.model.save import atomic_folder
from expunge.runs.environment import environment

ROOT = Path(__file__).resolve().parent.parent
RECIPE = Path(__file__).with_suffix(".yaml")
SHUFFLED = {"cycles": 5, "step": "targets", "curvature": controls.path("shuffled_diagonal")}
DESCENT = {"steps": 100, "replay_texts": 96}  # as loss_matching in the recipe
CONTROLS: dict[str, dict[str, Any]] = {
    "step_shuffled": {"method": "fisher_removal", **SHUFFLED},
    "sophia_identity": {"method": controls.path("sophia_identity"), **DESCENT},
    "sophia_shuffled": {"method": controls.path("sophia_shuffled"), **DESCENT},
    "sophia_diagonal": {"method": controls.path("sophia_diagonal"), **DESCENT},
    "start_shuffled": {"method": "libu", **SHUFFLED, "optimiser": "adamw", "steps": 60, "replay_texts": 96},
}


def variants() -> dict[str, dict[str, Any]]:
    """The recipe's, and the controls, which no recipe may name."""
    return {**read_yaml(RECIPE)["variants"], **CONTROLS}


def compared(seed: int, work: Path, names: list[str]) -> dict[str, dict[str, Any]]:
    """Cells of one world by variant, those named (and original and retrained)."""
    world, output = work / f"world-{seed}", work / f"compared-{seed}"
    if not world.exists():
        with atomic_folder(world) as folder:
            make_models(folder, replace(SMALL, seed=seed), print)
    shutil.rmtree(output, ignore_errors=True)
    rows = {role: str(world / f"{role}.jsonl") for role in ("forget", "retain", "holdout", "train")}
    models = {"model": str(world / "original"), "base": str(world / "base"), "retrained": str(world / "retrained")}
    chosen = {name: settings for name, settings in variants().items() if name in names}
    done = expunge.compare(say=print, **rows, **models, variants=chosen, seeds=(seed,), output=str(output))
    return {cell["model"]: cell for cell in done.content["cells"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[3, 4, 5])
    every = list(variants())
    parser.add_argument("--variants", nargs="+", choices=every, metavar="NAME", help="some of them; all unless given")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "curvature_ablation")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    worlds = {seed: compared(seed, arguments.work, arguments.variants or every) for seed in arguments.worlds}
    machine = environment()
    seeds = " ".join(map(str, arguments.worlds))
    chosen = ["        --variants " + " ".join(arguments.variants)] if arguments.variants else []
    page = [
        "# Does a curvature earn its place? Worlds of fictional people",
        "",
        f"    python benchmarks/curvature_ablation.py --worlds {seeds} --output docs/results/{arguments.output.name}"
        + (" \\" if chosen else ""),
        *chosen,
        "",
        f"Mean over {len(worlds)} worlds (seeds {seeds}), with the smallest and the largest. Losses and KL in nats per",
        "token; the reporting rows were trained in and given to nothing. A world: 6 people to forget, 20 to keep, 10",
        "that only report, 40 never seen. What each variant is: benchmarks/curvature_ablation.yaml and .py.",
        f"Machine: {machine['machine']}, torch {machine['versions']['torch']}, {machine['created'][:10]}.",
        "",
        *([*uses, ""] if (uses := verdicts(worlds)) else []),
        *table(worlds),
        "",
    ]
    if shares := clipping(worlds):
        said = "Sophia's gamma leaves 30 % unclipped when set; the share midway between refreshes, on other batches:"
        page += [said, "", *shares, ""]
    arguments.output.write_text("\n".join(page), encoding="utf-8")
    print("\n".join(page))


if __name__ == "__main__":
    main()
