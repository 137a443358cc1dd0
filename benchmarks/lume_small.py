"""Makes the data and the models of `recipes/lume_small.yaml` from the public LUME folds.

    python benchmarks/lume_small.py --lume FOLDER [--seed 0]      (or: make lume LUME=FOLDER)
    python benchmarks/lume_small.py --lume FOLDER --compare       (or: make lume-compare LUME=FOLDER)

A fifth of the documents of each train fold (by hash, stratified by task) is what the original model memorises, after
it has been trained on the other four fifths, from which alone the tokenizer is made. The validation folds are the
holdout; nothing trains on them. Rows keep LUME's own columns and are read as benchmark `lume` reads them. Rows and
models are written below build/lume_small, which is not under version control.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from expunge.benchmarks.lume import Lume
from expunge.config.recipes import read_yaml
from expunge.data.rows import read
from expunge.data.tokens import Rendering
from expunge.demo.tiny import byte_tokenizer, llama
from expunge.loop.training import Training
from expunge.model.load import load_model
from expunge.runs.distributed import Runtime
from kept_models import keep

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"
RENDERING = Rendering(end_documents=True, context=512)
VOCABULARY = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Shape of the models, the learning rate of the base, how the original is trained from it (a recipe), and where."""

    width: int
    layers: int
    heads: int
    learning_rate: float
    training: str
    work: Path  # below build, not under version control: the rows must never be committed

    @property
    def training_file(self) -> Path:
        return RECIPES / f"{self.training}.yaml"


SMALL = Size(
    width=256, layers=4, heads=8, learning_rate=2e-3, training="lume_small_training", work=ROOT / "build" / "lume_small"
)
LARGE = Size(
    width=768, layers=14, heads=12, learning_rate=6e-4, training="lume_large_training",
    work=ROOT / "build" / "lume_large",
)  # fmt: skip
"""3.7 million parameters, and 102 million for a GPU."""
SIZES = {"small": SMALL, "large": LARGE}
TASKS = ("Task1", "Task2", "Task3")
FOLDS = ("forget_train", "retain_train", "forget_validation", "retain_validation")


def read_fold(folder: Path, fold: str) -> dict[str, list[dict[str, str]]]:
    """Rows of one fold by document key."""
    documents: dict[str, list[dict[str, str]]] = {}
    for line in (folder / f"{fold}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        key = re.fullmatch(r"(.*)(?:sc|qa)\d", row["id"]).group(1)
        documents.setdefault(key, []).append(row)
    return documents


def fifth(documents: dict[str, list[dict[str, str]]]) -> set[str]:
    """Keys of a fifth of the documents, by hash, within each task."""
    chosen: set[str] = set()
    for task in TASKS:
        keys = [key for key, rows in documents.items() if rows[0]["task"] == task]
        keys.sort(key=lambda key: hashlib.sha256(key.encode()).hexdigest())
        chosen.update(keys[: round(len(keys) / 5)])
    return chosen


def prepare(lume: Path, data: Path) -> None:
    """Writes forget, retain, holdout, train (forget and retain) and pretrain rows."""
    folds = {fold: read_fold(lume, fold) for fold in FOLDS}
    split: dict[str, list[dict[str, str]]] = {name: [] for name in ("forget", "retain", "holdout", "pretrain")}
    for fold in ("forget_train", "retain_train"):
        chosen = fifth(folds[fold])
        for key, rows in folds[fold].items():
            split[fold.split("_")[0] if key in chosen else "pretrain"].extend(rows)
    for fold in ("forget_validation", "retain_validation"):
        for rows in folds[fold].values():
            split["holdout"].extend(rows)
    split["train"] = split["forget"] + split["retain"]
    data.mkdir(parents=True, exist_ok=True)
    for name, rows in split.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (data / f"{name}.jsonl").write_text(text, encoding="utf-8")


def make_models(size: Size, seed: int) -> None:
    """Base (trained on four fifths) and original (then on the last fifth), below `size.work`/models; kept where they
    are."""
    data = size.work / "data"
    rows = {name: read(data / f"{name}.jsonl", name, Lume().make_row).rows for name in ("pretrain", "train")}
    tokenizer = byte_tokenizer((f"{row.prompt} {row.completion}" for row in rows["pretrain"]), VOCABULARY)
    shape = {"width": size.width, "layers": size.layers, "heads": size.heads, "context": RENDERING.context}
    model = llama(tokenizer, **shape, seed=seed).to(Runtime().device)
    pretraining = Training(epochs=8, learning_rate=size.learning_rate, batch_rows=32, weight_decay=0.1)
    for name, group, training in (
        ("base", "pretrain", pretraining),
        ("original", "train", Training(**read_yaml(size.training_file))),
    ):
        folder = size.work / "models" / name
        keep(folder, model, tokenizer, rows[group], RENDERING, training, seed)
        model = load_model(str(folder), torch.float32, model.device)


def run(*arguments: str) -> None:
    """One expunge command; its exit code 3 (the verdict does not pass) is a result, not a failure."""
    print("$ expunge " + " ".join(arguments), flush=True)
    start = time.perf_counter()
    code = subprocess.run([sys.executable, "-m", "expunge", *arguments], check=False).returncode
    print(f"exit code {code}, {time.perf_counter() - start:.0f} s", flush=True)
    if code not in (0, 3):
        raise SystemExit(code)


def make_twins(size: Size, seed: int) -> None:
    """Three retrained twins below `size.work`/models/retrained; kept where they are."""
    twin(size, "forget", "retrained", "--twins", "3", "--seed", str(seed))


def twin(size: Size, forget: str, name: str, *how: str) -> None:
    """Retrains without the rows of `forget`.jsonl into models/`name`; nothing where that exists."""
    data, models = size.work / "data", size.work / "models"
    if not (models / name).exists():
        rows = ["--forget", str(data / f"{forget}.jsonl"), "--train", str(data / "train.jsonl"), "--benchmark", "lume"]
        start = ["--model", str(models / "original"), "--base", str(models / "base")]
        training = ["--train-config", str(size.training_file)]
        run("retrain", *start, *rows, *training, *how, "--output", str(models / name))


def compare(work: Path) -> None:
    """Both comparisons, and a refusal where the original had not memorised its rows. Finished cells are kept."""
    for name in ("compare", "organisers"):
        output = work / name
        run("compare", "--recipe", str(RECIPES / f"lume_small_{name}.yaml"), "--output", str(output))
        cells = json.loads((output / "comparison.json").read_text(encoding="utf-8"))["cells"]
        scores = next(cell["scores"] for cell in cells if cell["model"] == "original")
        for key, least in (("knowledge (forget)", 1.0), ("regurgitation (forget)", 0.95)):
            if scores[key]["value"] < least:
                raise SystemExit(f"the original has {key} {scores[key]['value']:.3f} of {least}: it is not memorised")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lume", type=Path, required=True, help="folder of the four public LUME folds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--compare", action="store_true", help="methods x seeds in place of one unlearning")
    arguments = parser.parse_args()
    prepare(arguments.lume, SMALL.work / "data")
    make_models(SMALL, arguments.seed)
    make_twins(SMALL, arguments.seed)
    if arguments.compare:
        compare(SMALL.work)
        return
    unlearned = SMALL.work / "unlearned"
    if unlearned.exists():
        raise SystemExit(f"{unlearned} exists already; remove it to run again")
    run("unlearn", "--recipe", str(RECIPES / "lume_small.yaml"), "--seed", str(arguments.seed))


if __name__ == "__main__":
    main()
