"""Makes the data and the models of `recipes/lume_small.yaml` from the public LUME folds.

    python benchmarks/lume_small.py --lume DIR --work DIR [--seed 0]

A fifth of the documents of each train fold (by hash, stratified by task) is what the original model memorises, after
it has been trained on the other four fifths, from which alone the tokenizer is made. The validation folds are the
holdout; nothing trains on them. Documents (`input`, a space, `output`) become `text` rows; questions become `prompt`
and `completion`. The rows are written below --work, which must not be committed.
"""

import argparse
import hashlib
import json
import re
from pathlib import Path

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


def convert(rows: list[dict[str, str]]) -> list[dict[str, str]]:
    """LUME rows as `text` and `prompt` + `completion` rows."""
    converted = []
    for row in rows:
        shared = {"id": row["id"], "task": row["task"]}
        if re.search(r"sc\d$", row["id"]):
            converted.append(shared | {"text": f"{row['input']} {row['output']}"})
        else:
            converted.append(shared | {"prompt": row["input"], "completion": row["output"]})
    return converted


def prepare(lume: Path, data: Path) -> None:
    """Writes forget, retain, holdout, train (forget and retain) and pretrain rows."""
    folds = {fold: read_fold(lume, fold) for fold in FOLDS}
    split: dict[str, list[dict[str, str]]] = {name: [] for name in ("forget", "retain", "holdout", "pretrain")}
    for fold in ("forget_train", "retain_train"):
        chosen = fifth(folds[fold])
        for key, rows in folds[fold].items():
            split[fold.split("_")[0] if key in chosen else "pretrain"].extend(convert(rows))
    for fold in ("forget_validation", "retain_validation"):
        for rows in folds[fold].values():
            split["holdout"].extend(convert(rows))
    split["train"] = split["forget"] + split["retain"]
    data.mkdir(parents=True, exist_ok=True)
    for name, rows in split.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (data / f"{name}.jsonl").write_text(text, encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lume", type=Path, required=True, help="folder of the four public LUME folds")
    parser.add_argument("--work", type=Path, required=True, help="folder for rows and models")
    arguments = parser.parse_args()
    prepare(arguments.lume, arguments.work / "data")


if __name__ == "__main__":
    main()
