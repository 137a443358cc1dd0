"""TOFU on SmolLM2-135M-Instruct: fine-tuned until it knows the authors, retrained twins, methods beside them.

    python benchmarks/tofu_small.py --tofu FOLDER [--size small|sitting|full|try] [--lora]
        [--steps data models twins compare]

FOLDER has TOFU's files as they are published (full, forgetNN_perturbed, retain_perturbed, real_authors_perturbed,
world_facts_perturbed); rows and models stay below build/, and nothing of them comes with this package. The model is
that of `expunge demo --real`: a package of 93 MB, fetched once.

`small` has 20 authors of 200 (400 rows), of whom one (5 %) or two (10 %) are forgotten, and 8 that nobody trained on;
`sitting` has 10 (200 rows), of whom one is forgotten, so that all is done in two hours of one thread; `full` is the
benchmark itself (forget01, 05, 10; 4,000 rows, none left to compare with), for a GPU; `try` runs every step on 20 rows.
Each step keeps what is there, and an interrupted fine-tune goes on; `compare` runs recipes/tofu_compare.yaml and keeps
its cells.

`--lora`: the model is a LoRA of rank 16 on every linear layer of the untouched base, retrained as one, and given and
delivered as one; with the methods of `ADAPTED`.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from expunge.benchmarks.tofu import Tofu
from expunge.config.recipes import read_yaml
from expunge.data.rows import read
from expunge.data.splits import spread
from expunge.data.tokens import Rendering
from expunge.demo import real
from expunge.loop.training import Training
from expunge.model import gguf, load
from expunge.runs.checkpoint import Checkpoints
from expunge.runs.distributed import Runtime
from kept_models import keep
from lume_small import run

ROOT = Path(__file__).parents[1]
EACH, AUTHORS, SPARE = 20, 200, 8  # rows of an author, authors, and those that nobody trains on
PERTURBED = ("retain_perturbed.json", "forget10_perturbed.json")
GENERAL = ("real_authors_perturbed.json", "world_facts_perturbed.json")
RATE, LORA_RATE, CONTEXT = 1e-4, 1e-3, 512
RANK = 16
ADAPTED = ("margin_newton", "npo", "libu")
STEPS = ("data", "models", "twins", "compare")
Rows = list[dict[str, object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Authors that are trained in, those of each request, rows of each (fewer to try the steps), how it trains.

    `general`: rows of real authors and of world facts, `kept`: rows to keep with wrong answers; None: all there are.
    """

    authors: int
    requests: tuple[int, ...]
    rows: int = EACH
    general: int | None = None
    kept: int | None = None
    epochs: int = 8
    twins: int = 3


SIZES = {
    "small": Size(authors=20, requests=(1, 2), general=40, kept=60, twins=1),
    "sitting": Size(authors=10, requests=(1,), general=20, kept=30, twins=1),
    "full": Size(authors=AUTHORS, requests=(2, 10, 20), epochs=5, twins=1),
    "try": Size(authors=4, requests=(1,), rows=5, general=5, epochs=1, twins=1),
}


def lines(file: Path) -> Rows:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]


def put(file: Path, rows: Rows) -> None:
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def prepare(tofu: Path, size: Size, work: Path) -> None:
    """A folder of the original's layout for each request, with its share of the rows; all have the same rows trained in
    and the same that nobody trained on."""
    full = lines(tofu / "full.json")
    wrong = {row["question"]: row for file in PERTURBED for row in lines(tofu / file)}
    most = max(size.requests)
    trained = [*range(size.authors - most), *range(AUTHORS - most, AUTHORS)]
    spare = [author for author in range(AUTHORS - 20, AUTHORS) if author not in trained][:SPARE]

    def of(authors: list[int]) -> Rows:
        return [row for author in authors for row in full[author * EACH : author * EACH + size.rows]]

    for count in size.requests:
        data = work / f"forget{count}"
        data.mkdir(parents=True, exist_ok=True)
        forget, retain = of(trained[-count:]), of(trained[:-count])
        put(data / "forget_perturbed.json", [wrong[row["question"]] for row in forget])
        put(data / "retain.json", retain)
        beside = [wrong[row["question"]] for row in retain if row["question"] in wrong]
        put(data / "retain_perturbed.json", [beside[place] for place in spread(len(beside), size.kept or len(beside))])
        for name in GENERAL:
            put(data / name, lines(tofu / name)[: size.general])
        if spare:
            put(data / "holdout.json", of(spare))
    put(work / "train.json", of(trained))


def original(size: Size, work: Path, lora: bool) -> None:
    """The base, or a LoRA over it, fine-tuned on all rows; goes on where it was interrupted."""
    folder, kept = work / "original", work / "checkpoints"
    if folder.exists():
        return
    base = work / "base"
    if not base.exists():
        base.symlink_to(gguf.folder_of(real.fetched(print), print))
    tokenizer = load.load_tokenizer(str(base))
    rows = read(work / "train.json", "train", Tofu().make_row).rows
    model = load.load_model(str(base), torch.float32, Runtime().device)
    if lora:
        settings = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
        model = get_peft_model(model, settings)
    kept.mkdir(exist_ok=True)
    subspace, rate = ("adapter", LORA_RATE) if lora else ("full", RATE)
    training = Training(epochs=size.epochs, learning_rate=rate, subspace=subspace)
    keep(folder, model, tokenizer, rows, Rendering(context=CONTEXT), training, 0, Checkpoints(kept))
    shutil.rmtree(kept)


def twins(size: Size, count: int, work: Path, lora: bool) -> None:
    """Retrained without the forget rows, by the same training; kept where they are."""
    data, training = work / f"forget{count}", work / "training.yaml"
    if (data / "retrained").exists():
        return
    how = f"learning_rate: {LORA_RATE}\nsubspace: adapter\n" if lora else f"learning_rate: {RATE}\n"
    training.write_text(f"epochs: {size.epochs}\n{how}", encoding="utf-8")
    files = ["--forget", str(data / "forget_perturbed.json"), "--train", str(work / "train.json")]
    models = ["--model", str(work / "original"), "--base", str(work / "base")]
    flags = ["--benchmark", "tofu", "--train-config", str(training), "--twins", str(size.twins)]
    flags += ["--context", str(CONTEXT)]
    run("retrain", *models, *files, *flags, "--output", str(data / "retrained"))


def compare(name: str, count: int, work: Path, lora: bool) -> None:
    """The methods of recipes/tofu_compare.yaml beside the twins; finished cells are kept."""
    data = work / f"forget{count}"
    recipe = read_yaml(str(ROOT / "recipes" / "tofu_compare.yaml"))
    roles = {"forget": "forget_perturbed", "retain": "retain", "holdout": "holdout"}
    files = {role: data / f"{file}.json" for role, file in roles.items()}
    recipe |= {role: str(file) if file.exists() else None for role, file in files.items()}
    recipe |= {"model": str(work / "original"), "base": str(work / "base")}
    recipe |= {"retrained": str(data / "retrained"), "train": str(work / "train.json")}
    if lora:
        recipe |= {"variants": {one: {} for one in ADAPTED}}
    if name == "try":
        recipe |= {"seeds": [0], "variants": {"margin_newton": {"iterations": 2}, "npo": {"epochs": 1}}}
    own = data / "compare.yaml"
    own.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
    run("compare", "--recipe", str(own), "--output", str(data / "comparison"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tofu", type=Path, required=True)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--requests", nargs="+", type=int, help="authors to forget; all of the size's requests")
    arguments = parser.parse_args()
    size, lora = SIZES[arguments.size], arguments.lora
    work = ROOT / "build" / (f"tofu_{arguments.size}" + ("_lora" if lora else ""))
    if "data" in arguments.steps:
        prepare(arguments.tofu, size, work)
    if "models" in arguments.steps:
        original(size, work, lora)
    for count in arguments.requests or size.requests:
        if "twins" in arguments.steps:
            twins(size, count, work, lora)
        if "compare" in arguments.steps:
            compare(arguments.size, count, work, lora)


if __name__ == "__main__":
    main()
