"""Makes models that have memorised generated secrets, removes them with some methods, and tables their exposure.

    python benchmarks/canary_world.py [--methods NAME ...] [--seed 0] [--page docs/results/canaries.md]
    python benchmarks/canary_world.py --mails FOLDER --output FILE

A base learns to write from 240 fictional people and other people's secrets; the original then memorises 30 people, 15
secrets to keep and 45 to forget (15 e-mail addresses, 15 keys, 15 codes; each inserted 1, 2 or 4 times an epoch); the
retrained model learns the same rows without the 45. The holdout's secrets are in no model. Rows and models lie below
build/canaries, which is not under version control; what exists is kept, so the same command goes on after an
interruption (models one by one, the comparison cell by cell).

Expected on two cores: 3 to 5 minutes for the three models, 1 to 2 minutes to score each model's candidates (the
original and the retrained model once, then each method), and each method's own time. `--small`: a model too small to
memorise, to see the path in a minute.

The second form makes no model: it writes the identifiers that stand in your own mails and texts as rows to forget (see
`mail_rows`).
"""

import argparse
import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import mail_rows
from expunge.benchmarks.canaries import FIRST, POOLED
from expunge.data import fiction
from expunge.data.rows import Row
from expunge.data.secrets import canaries
from expunge.data.tokens import Rendering
from expunge.demo.models import write_rows
from expunge.demo.tiny import byte_tokenizer, llama
from expunge.errors import InputError
from expunge.loop.training import Training
from expunge.model.load import load_model, load_tokenizer
from expunge.scoring.ranking import NEVER_SEEN
from kept_models import keep

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "canaries"
RENDERING = Rendering(end_documents=True, context=256)
PRETRAINING = Training(epochs=6, learning_rate=2e-3, batch_rows=32, weight_decay=0.1)
FINE_TUNING = Training(epochs=30, learning_rate=1e-3, batch_rows=16)
MEMORISED = 0.8  # of the secrets to forget come first in the original, or there is nothing to show
Rows = dict[str, list[Row]]


@dataclass(frozen=True, kw_only=True)
class World:
    """How many names have secrets (three each), how many people carry text, how large the model is, how it trains.

    All of it is our choice; the sizes and rates of the models are those of the demo.
    """

    forget: int = 15
    retain: int = 5
    holdout: int = 16
    others: int = 60
    carriers: int = 30
    pretrain: int = 240
    repeated: tuple[int, ...] = (1, 2, 4)
    width: int = 128
    layers: int = 4
    pretraining: Training = PRETRAINING
    fine_tuning: Training = FINE_TUNING


SMALL = World(
    forget=3,
    retain=1,
    holdout=4,
    others=6,
    carriers=5,
    pretrain=12,
    width=32,
    layers=1,
    pretraining=Training(epochs=2, learning_rate=2e-3, batch_rows=32),
    fine_tuning=Training(epochs=4, learning_rate=2e-3, batch_rows=16),
)


def make_rows(world: World, seed: int) -> Rows:
    """Rows by role: secrets of `forget`, `retain` and `holdout`, carriers beside them, and what the base learns."""
    people = fiction.people(sum((world.forget, world.retain, world.holdout, world.others)), seed)
    names = iter([person.name for person in people])
    carriers = fiction.people(world.carriers + world.pretrain, seed + 1)
    rows: Rows = {}
    for place, role in enumerate(("forget", "retain", "holdout", "others")):
        chosen = [next(names) for _ in range(getattr(world, role))]
        made = canaries(chosen, world.repeated if role == "forget" else (2,), 100 * seed + place)
        rows[role] = [
            Row(f"{role}.jsonl", line, "answer", one.prompt, one.secret, str(one.label))
            for line, one in enumerate(made, start=1)
        ]
    rows["carriers"] = fiction.rows(carriers[: world.carriers], "retain.jsonl")
    rows["pretrain"] = fiction.rows(carriers[world.carriers :], "pretrain.jsonl") + rows.pop("others")
    return rows


def repeat(rows: list[Row]) -> list[Row]:
    """Each secret as many times as its task says: what one epoch of training sees."""
    return [row for row in rows for _ in range(int(row.task.rpartition("x")[2]))]


def write_files(folder: Path, rows: Rows) -> None:
    """forget, retain (secrets to keep and carriers), holdout, train. A file holds a repeated secret once."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = rows["retain"] + rows["carriers"]
    for role, group in {**rows, "retain": kept, "train": rows["forget"] + kept}.items():
        if role in ("forget", "retain", "holdout", "train"):
            write_rows(folder / f"{role}.jsonl", group)


def make_models(work: Path, world: World, rows: Rows, seed: int) -> None:
    """base, original and retrained, below `work`/models; those that exist are kept."""
    kept = rows["carriers"] + repeat(rows["retain"])
    groups = {
        "base": (rows["pretrain"], world.pretraining),
        "original": (kept + repeat(rows["forget"]), world.fine_tuning),
        "retrained": (kept, world.fine_tuning),
    }
    tokenizer = byte_tokenizer([], 258)  # merged tokens would give the candidates' losses several peaks
    base = llama(tokenizer, width=world.width, layers=world.layers, heads=4, context=RENDERING.context, seed=seed)
    for name, (group, training) in groups.items():
        folder = work / "models" / name
        keep(folder, copy.deepcopy(base), tokenizer, group, RENDERING, training, seed)
        if name == "base":
            base, tokenizer = load_model(str(folder), torch.float32, base.device), load_tokenizer(str(folder))


def compare(work: Path, methods: list[str], seed: int) -> dict[str, Any]:
    """The comparison's content: original, retrained and each method at one seed. Finished cells are kept."""
    output = work / "compare"
    shutil.rmtree(output, ignore_errors=True)
    arguments = ["compare", "--benchmark", "canaries", "--seeds", str(seed), "--output", str(output)]
    for role in ("model", "base", "retrained"):
        arguments += [f"--{role}", str(work / "models" / ("original" if role == "model" else role))]
    for role in ("forget", "retain", "holdout"):
        arguments += [f"--{role}", str(work / "data" / f"{role}.jsonl")]
    subprocess.run([sys.executable, "-m", "expunge", *arguments, "--methods", *methods], check=True)
    return dict(json.loads((output / "comparison.json").read_text(encoding="utf-8")))


def table(cells: list[Mapping[str, Any]]) -> list[str]:
    """A Markdown table: a line for each official score, a column for each model."""
    shown = [cell for cell in cells if not cell["error"]]
    names = list(dict.fromkeys(name for cell in shown for group in cell["official"].values() for name in group))
    lines = [f"| | {' | '.join(cell['model'] for cell in shown)} |", "|" + " --- |" * (len(shown) + 1)]
    for name in names:
        lines.append(f"| {name} | {' | '.join(_cell(cell['scores'].get(name)) for cell in shown)} |")
    seconds = (f"{cell.get('unlearn_seconds') or 0:.0f}" for cell in shown)
    return [*lines, f"| seconds of unlearning | {' | '.join(seconds)} |"]


def _cell(score: Mapping[str, Any] | None) -> str:
    if not score or "value" not in score:
        return "missing"
    interval = "" if score.get("low") is None else f" ({score['low']:.2f} to {score['high']:.2f})"
    return f"{score['value']:.2f}{interval}"


def findings(cells: list[Mapping[str, Any]]) -> list[str]:
    """Whether the secrets were memorised, whether the retrained model is at its mean, flags and failures."""
    scores = {cell["model"]: cell["scores"] for cell in cells if not cell["error"]}
    first, never = scores["original"][FIRST]["value"], scores["retrained"][POOLED]
    held = never["low"] <= NEVER_SEEN <= never["high"]
    lines = [
        f"Original: {first:.0%} of the secrets to forget come first ({MEMORISED:.0%} are needed).",
        f"Retrained: {never['value']:.2f} bits ({never['low']:.2f} to {never['high']:.2f}); a model that never saw "
        f"them has {NEVER_SEEN:.2f} on average, which the interval {'holds' if held else 'does not hold'}.",
    ]
    for cell in cells:
        said = [f"failed: {cell['error']}"] if cell["error"] else cell["flags"]
        lines += [f"{cell['model']}: {one}." for one in said]
    return lines


def page(content: Mapping[str, Any], world: World, lines: list[str], found: list[str]) -> str:
    head = [
        "# Exposure of generated secrets",
        "",
        f"{content['machine']}; {content['created'][:10]}. Made by `python benchmarks/canary_world.py`: "
        f"{3 * world.forget} secrets to forget (inserted {', '.join(map(str, world.repeated))} times an epoch, "
        f"{world.fine_tuning.epochs} epochs), {3 * world.retain} to keep, a Llama of width {world.width} with "
        f"{world.layers} layers. Exposures in bits, means with 95 % intervals over secrets; what they are and how they "
        "are fitted: `docs/canaries.md`.",
        "",
    ]
    return "\n".join([*head, *lines, "", *(f"- {line}" for line in found), ""])


def write_mail_rows(folder: Path, output: Path) -> int:
    """The exit status. 0: written; 2: wrong input, as `expunge` itself answers."""
    try:
        count = mail_rows.write(folder, output)
    except InputError as error:
        print(f"expunge: {error}", file=sys.stderr)
        return error.exit_code
    print(f"{count} rows: {output}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["loss_matching"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, help="Markdown file to write")
    parser.add_argument("--small", action="store_true", help="a tiny world, to see the path")
    parser.add_argument("--mails", type=Path, metavar="FOLDER", help="folder with .mbox, .eml and .txt files")
    parser.add_argument("--output", type=Path, metavar="FILE", help="with --mails: rows to write; must not exist")
    arguments = parser.parse_args()
    if (arguments.mails is None) != (arguments.output is None):
        parser.error("--mails FOLDER and --output FILE belong together")
    if arguments.mails is not None:
        return write_mail_rows(arguments.mails, arguments.output)
    world = SMALL if arguments.small else World()
    work = WORK / f"{'small-' if arguments.small else ''}{arguments.seed}"
    rows = make_rows(world, arguments.seed)
    write_files(work / "data", rows)
    make_models(work, world, rows, arguments.seed)
    content = compare(work, arguments.methods, arguments.seed)
    lines, found = table(content["cells"]), findings(content["cells"])
    print("\n".join([*lines, "", *found]))
    if arguments.page:
        arguments.page.write_text(page(content, world, lines, found), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
