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
from pathlib import Path

import torch

from expunge.benchmarks.lume import Lume
from expunge.config import read_yaml
from expunge.data.rows import read
from expunge.data.tokens import Rendering
from expunge.loop import Training
from expunge.model.load import load_model
from expunge.model.tiny import byte_tokenizer, llama
from kept_models import keep

ROOT = Path(__file__).resolve().parent.parent
RECIPES = ROOT / "recipes"
WORK = ROOT / "build" / "lume_small"  # not under version control: the rows must never be committed
RENDERING = Rendering(end_documents=True, context=512)
VOCABULARY = 2048
PRETRAINING = Training(epochs=8, learning_rate=2e-3, batch_rows=32, weight_decay=0.1)
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


def make_models(work: Path, seed: int) -> None:
    """Base (trained on four fifths) and original (then on the last fifth), below `work`/models; kept where they are."""
    rows = {name: read(work / "data" / f"{name}.jsonl", name, Lume().make_row).rows for name in ("pretrain", "train")}
    tokenizer = byte_tokenizer((f"{row.prompt} {row.completion}" for row in rows["pretrain"]), VOCABULARY)
    model = llama(tokenizer, width=256, layers=4, heads=8, context=RENDERING.context, seed=seed)
    for name, group, training in (
        ("base", "pretrain", PRETRAINING),
        ("original", "train", Training(**read_yaml(RECIPES / "lume_small_training.yaml"))),
    ):
        folder = work / "models" / name
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


def make_twins(data: Path, models: Path, seed: int) -> None:
    """Three retrained twins below `models`/retrained; kept where they are."""
    if not (models / "retrained").exists():
        rows = ["--forget", str(data / "forget.jsonl"), "--train", str(data / "train.jsonl"), "--benchmark", "lume"]
        start = ["--model", str(models / "original"), "--base", str(models / "base")]
        how = ["--train-config", str(RECIPES / "lume_small_training.yaml"), "--seeds", "3", "--seed", str(seed)]
        run("retrain", *start, *rows, *how, "--output", str(models / "retrained"))


def compare(work: Path) -> None:
    """Both comparisons, and a refusal where the original had not memorised its rows. Finished cells are kept."""
    for name in ("compare", "organisers"):
        output = work / name
        run("compare", "--config", str(RECIPES / f"lume_small_{name}.yaml"), "--output", str(output))
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
    data, models = WORK / "data", WORK / "models"
    prepare(arguments.lume, data)
    make_models(WORK, arguments.seed)
    seed = ["--seed", str(arguments.seed)]
    make_twins(data, models, arguments.seed)
    if arguments.compare:
        compare(WORK)
        return
    unlearned = WORK / "unlearned"
    if unlearned.exists():
        raise SystemExit(f"{unlearned} exists already; remove it to run again")
    run("unlearn", "--config", str(RECIPES / "lume_small.yaml"), *seed)


if __name__ == "__main__":
    main()
