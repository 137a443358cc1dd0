"""Methods under attack, beside a twin: `expunge compare --evidence audit` on LUME rows, `full` on a real model.

    python benchmarks/under_attack.py demo --worlds FOLDER ... --output FOLDER
    python benchmarks/under_attack.py lume --lume FOLDER --output FOLDER [--seeds 0 1 2]
    python benchmarks/under_attack.py real --output FOLDER [--seeds 0 1 2]
    python benchmarks/under_attack.py table --output FOLDER

`demo`: worlds as benchmarks/in_memory.py reads them, each with its retrained model, 50 of 300 memorised rows to forget.
`lume`: rows and models of benchmarks/lume_small.py, 48 of 446 memorised rows to forget, half of the others given.
`real`: those of `expunge demo --real` (SmolLM2-135M-Instruct), three customers (15 rows) to forget of twelve. Either
makes a retrained twin of its request, and keeps finished cells: the same command goes on after an interruption.
`table` prints what the folders hold so far: the word of each attack on each method, how often forget rows are given
back at the worst setting (and by the twin), and what the unlearning took; then, of each method and the twin, answers
that nobody gave, the area under relearning, what relearning gives back at worst, and losses after merging and in other
words.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import margin_newton
from expunge.demo import real
from lume_small import SIZES, make_models, prepare, run, twin

METHODS: dict[str, dict[str, Any]] = {
    "margin_newton": {},
    "margin_newton, three durable rounds": {"method": "margin_newton", "durable_rounds": 3},
    "libu": {},
    "gradient_difference": {"learning_rate": 3e-4},
    "npo": {"learning_rate": 3e-4},
    "sim_npo": {"learning_rate": 1e-3},
}  # rates: of 1e-4, 3e-4 and 1e-3 the least that forgets on the first world; their own 1e-5 leaves every row as it was
CUSTOMERS = 3 * 5  # rows
PARTS = ("demo", "lume", "real")


def demo(folder: Path, worlds: list[Path]) -> None:
    for world in worlds:
        recipe = {role: str(world / f"{role}.jsonl") for role in ("forget", "retain", "holdout", "train")}
        recipe |= {"model": str(world / "original")} | {role: str(world / role) for role in ("base", "retrained")}
        compare(folder, {**recipe, "evidence": "audit"}, [0], world.name)


def lume(folder: Path, seeds: list[int], rows: Path) -> None:
    size = SIZES["small"]
    data, models = size.work / "data", size.work / "models"
    prepare(rows, data)
    make_models(size, 0)
    margin_newton.requests(rows, data)
    twin(size, "tenth", "retrained_tenth")
    files = {"forget": "tenth", "retain": "retain_given", "holdout": "holdout", "train": "train"}
    recipe: dict[str, Any] = {role: str(data / f"{file}.jsonl") for role, file in files.items()}
    recipe |= {role: str(models / role) for role in ("base",)} | {"model": str(models / "original")}
    recipe |= {"retrained": str(models / "retrained_tenth"), "benchmark": "lume", "evidence": "audit"}
    compare(folder, recipe, seeds)


def real_model(folder: Path, seeds: list[int]) -> None:
    models = real.cached_models(0, print)
    data = folder / "rows"
    data.mkdir(parents=True, exist_ok=True)
    given = [(models / f"{role}.jsonl").read_text(encoding="utf-8").splitlines(True) for role in ("forget", "retain")]
    more = CUSTOMERS - len(given[0])
    for role, lines in (("forget", given[0] + given[1][:more]), ("retain", given[1][more:])):
        (data / f"{role}.jsonl").write_text("".join(lines), encoding="utf-8")
    recipe: dict[str, Any] = {role: str(data / f"{role}.jsonl") for role in ("forget", "retain")}
    recipe |= {role: str(models / f"{role}.jsonl") for role in ("holdout", "train")}
    recipe |= {"model": str(models / "original"), "base": real.made(models).base}
    settings = data / "training.yaml"
    how = real.TRAINING
    settings.write_text(f"epochs: {how.epochs}\nlearning_rate: {how.learning_rate}\nbatch_rows: {how.batch_rows}\n")
    if not (folder / "retrained").exists():
        flags = [f"--{role}={recipe[role]}" for role in ("model", "base", "forget", "train")]
        run("retrain", *flags, f"--train-config={settings}", f"--output={folder / 'retrained'}")
    recipe |= {"retrained": str(folder / "retrained"), "evidence": "full"}
    compare(folder, recipe, seeds)


def compare(folder: Path, recipe: dict[str, Any], seeds: list[int], name: str = "seed") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for seed in seeds:  # a page for each
        own = folder / "compare.yaml"
        own.write_text(json.dumps(recipe | {"seeds": [seed], "variants": METHODS, "generations": "short"}))
        output = folder / f"{name}-{seed}"
        if not output.exists():
            run("compare", "--recipe", str(own), "--output", str(output))


def table(folder: Path) -> str:
    """A line for each finished cell of all pages."""
    pages = {
        file.parent.name: json.loads(file.read_text(encoding="utf-8")) for file in folder.glob("*/comparison.json")
    }
    found = [(name, cell) for name in sorted(pages) for cell in pages[name]["cells"] if cell["attacks"]]
    if not found:
        return "nothing yet\n"
    titles = list(dict.fromkeys(one["title"] for _, cell in found for one in cell["attacks"]))
    rows = [["method", "models", "verdict", *titles, "seconds"]]
    rows += [["---"] * len(rows[0])]
    for name, cell in sorted(found, key=lambda one: list(METHODS).index(one[1]["model"])):
        by_title = {one["title"]: one for one in cell["attacks"]}
        said = [shown(by_title[title]) if title in by_title else "" for title in titles]
        judged = f"{cell['verdict']['forget']}, {cell['verdict']['rest']}"
        rows.append([cell["model"], name, judged, *said, f"{cell['unlearn_seconds']:.0f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def figures(folder: Path) -> str:
    """A line for each model of each page: what the words of relearning, merging and paraphrases stand on."""
    heads = ["model", "models", "not given known", "area", "given back at worst", "merged 30 %", "politely"]
    rows = [heads, ["---"] * len(heads)]
    for file in sorted(folder.glob("*/comparison.json")):
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        attacked = [(cell, "unlearned", cell) for cell in cells if cell["attacks"]]
        twins = [
            (cell, "retrained", beside) for cell in cells for *_, beside in attacked if cell["model"] == "retrained"
        ]
        for cell, model, beside in [*twins[:1], *attacked]:
            every = {one["setting"]: one["values"]["forget"][model] for one in settings(beside)}
            area = next(every[name]["loss"] for name in every if name.startswith("the other half, area"))
            worst = max(one["values"]["forget"][model]["known"] for one in settings(beside, "relearning"))
            known = cell["scores"]["knowledge:collateral"]["value"]
            told = (known, area, worst, every["30% of the way"]["loss"], every["politely"]["loss"])
            rows.append([cell["model"], file.parent.name, *(f"{one:.2f}" for one in told)])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def settings(cell: dict[str, Any], attack: str = "") -> list[dict[str, Any]]:
    """Of one attack on a cell, or of all."""
    return [one for found in cell["attacks"] if attack in ("", found["attack"]) for one in found["settings"]]


def shown(result: dict[str, Any]) -> str:
    """The word, and the share given back at the setting where that is most (the twin's in brackets)."""
    values = [setting["values"]["forget"] for setting in result["settings"]]
    worst = max(values, key=lambda one: one["unlearned"]["known"] or 0.0)
    shares = [worst.get(model, {}).get("known") for model in ("unlearned", "retrained")]
    told = ["" if one is None else f"{one:.2f}" for one in shares]
    return result["verdict"] + (f" {told[0]} ({told[1]})" if told[0] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=[*PARTS, "table"])
    parser.add_argument("--lume", type=Path, help="folder of the four public LUME folds")
    parser.add_argument("--worlds", type=Path, nargs="+", default=[])
    parser.add_argument("--output", type=lambda given: Path(given).resolve(), required=True)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    given = parser.parse_args()
    if given.part == "demo":
        demo(given.output / "demo", [world.resolve() for world in given.worlds])
    elif given.part == "lume":
        if given.lume is None:
            parser.error("lume needs --lume")
        lume(given.output / "lume", given.seeds, given.lume)
    elif given.part == "real":
        real_model(given.output / "real", given.seeds)
    else:
        for part in PARTS:
            print(f"## {part}", table(given.output / part), figures(given.output / part), sep="\n\n")


if __name__ == "__main__":
    main()
