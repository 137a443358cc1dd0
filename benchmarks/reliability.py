"""Kills runs at random moments, gives the same command again, and compares the end with that of an undisturbed run.

    OMP_NUM_THREADS=1 python benchmarks/reliability.py [--kills 40] [--seed 0] [--page docs/results/reliability.md]

On the small world of fictional people (expunge.demo, about a minute to make): `unlearn` by loss matching and by a
second-order method with restoration, `retrain`, `evaluate` and `compare`, each first undisturbed, then killed
(SIGKILL) after a time drawn evenly from that of the undisturbed run, up to three times before it may come to its end.
After each kill the output must not exist or be whole; at the end weights, log, scores and verdict must be those of the
undisturbed run to the last bit, and nothing of the interrupted processes may be left. Expected on two cores: about
20 minutes.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "reliability"
ROWS = 40  # of each file: enough for every method, and runs of about ten seconds
IN_A_ROUND = 3  # kills before a run may come to its end
# Of the process, not of what it found: times, memory (also free memory in the reason for a subspace), page hashes.
VOLATILE = ("created", "seconds", "unlearn_seconds", "peak_memory_bytes", "interruptions", "files", "reason")
TRAINING = "epochs: 8\nlearning_rate: 1.5e-3\nbatch_rows: 16\n"
VARIANTS = """
tokens: 12000
variants:
  npo: {learning_rate: 1.0e-4, forget_rows: 8}
  gentle: {method: gradient_difference, learning_rate: 1.0e-5, forget_rows: 8}
"""


@dataclass
class Found:
    """What was seen of one command."""

    name: str
    seconds: float
    kills: int = 0
    rounds: int = 0
    same: int = 0
    half: int = 0
    left: int = 0
    failed: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return self.same == self.rounds > 0 and not (self.half or self.left or self.failed)


def prepare(work: Path) -> None:
    """The small world with fewer rows, kept where it exists."""
    from dataclasses import replace

    from expunge.demo.models import SMALL, make_models
    from expunge.model.save import atomic_folder

    if not (work / "world").exists():
        with atomic_folder(work / "world") as folder:
            make_models(folder, replace(SMALL, seed=3), print)
    shorten(work / "world", work)


def shorten(world: Path, work: Path) -> None:
    """A few of a world's rows, and the settings of the commands."""
    for name in ("forget", "retain", "holdout", "train"):
        lines = (world / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (work / f"{name}.jsonl").write_text("".join(lines[:ROWS]), encoding="utf-8")
    (work / "training.yaml").write_text(TRAINING, encoding="utf-8")
    (work / "compare.yaml").write_text(VARIANTS, encoding="utf-8")


def commands(world: Path, work: Path) -> dict[str, list[str]]:
    """Arguments by name, without the output."""
    rows = {role: ["--" + role, str(work / f"{role}.jsonl")] for role in ("forget", "retain", "holdout", "train")}
    given = ["--model", str(world / "original"), *rows["forget"], *rows["retain"], *rows["holdout"]]
    quick = ["--options.steps", "60", "--options.replay-texts", "32"]
    removal = "--options.cycles 3 --options.restore --options.step fixed --options.step-size 1e-3".split()
    base = ["--base", str(world / "base")]
    return {
        "unlearn, loss_matching": ["unlearn", *given, "--method", "loss_matching", *quick],
        "unlearn, fisher_removal": ["unlearn", *given, "--subspace", "lora", "--method", "fisher_removal", *removal],
        "retrain": ["retrain", *given[:4], *base, *rows["train"], "--train-config", str(work / "training.yaml")],
        "evaluate": ["evaluate", *given, "--unlearned", str(world / "retrained")],
        "compare": ["compare", *given, "--seeds", "0", "--recipe", str(work / "compare.yaml")],
    }


def start(arguments: list[str], output: Path, home: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, with its caches in `home`; the key of row hashes outlives that."""
    folders = {"EXPUNGE_CACHE": home / "cache", "XDG_CONFIG_HOME": home.parent / "config"}
    environment = os.environ | {name: str(folder) for name, folder in folders.items()} | {"HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "expunge", *arguments, "--output", str(output)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=home
    )


def fingerprint(output: Path) -> dict[str, str]:
    """Hashes of weights and log, and of records without what differs from run to run."""
    found = {}
    for file in sorted(output.rglob("*")):
        if file.suffix in (".safetensors", ".jsonl", ".npz", ".csv"):
            found[str(file.relative_to(output))] = hashlib.sha256(_content(file)).hexdigest()
        elif file.name in ("record.json", "comparison.json", "retrain.json"):
            plain = json.dumps(_steady(json.loads(file.read_text(encoding="utf-8"))), sort_keys=True)
            found[str(file.relative_to(output))] = hashlib.sha256(plain.encode()).hexdigest()
    return found


def _content(file: Path) -> bytes:
    """The bytes; of arrays their values, since their archive holds the time."""
    if file.suffix != ".npz":
        lines = file.read_bytes()
        return b"" if file.name == "cells.csv" else lines  # it holds seconds
    import numpy as np

    with np.load(file) as arrays:
        return b"".join(name.encode() + arrays[name].tobytes() for name in sorted(arrays))


def _steady(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _steady(part) for key, part in value.items() if key not in VOLATILE}
    return [_steady(part) for part in value] if isinstance(value, list) else value


def left_over(output: Path, home: Path) -> list[Path]:
    """Temporary folders beside the output and working folders that are still there."""
    state = home / "cache" / "state"
    found: Iterator[Path] = (path for kind in ("runs", "temporary") for path in (state / kind).glob("*"))
    return [*output.parent.glob(f".{output.name}-*"), *found]


def undisturbed(name: str, arguments: list[str], work: Path) -> tuple[Found, dict[str, str]]:
    home, output = _fresh(work), work / "out"
    began = time.monotonic()
    process = start(arguments, output, home)
    said = process.communicate()[1]
    if not output.exists():
        raise SystemExit(f"{name}: the undisturbed run failed: {said}")
    return Found(name, time.monotonic() - began), fingerprint(output)


def killed(found: Found, arguments: list[str], expected: dict[str, str], work: Path, most: int, rng: Any) -> None:
    """One round: up to `most` kills, then to the end."""
    home, output = _fresh(work), work / "out"
    for life in range(most + 1):
        process = start(arguments, output, home)
        try:
            _, said = process.communicate(timeout=rng.uniform(0, found.seconds) if life < most else None)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            found.kills += 1
            found.half += output.exists() and fingerprint(output) != expected
            if not output.exists():
                continue
            break  # killed after the output was there
        if process.returncode not in (0, 3):
            found.failed.append(said.strip())
        break
    found.rounds += 1
    found.same += output.exists() and fingerprint(output) == expected
    found.left += bool(left_over(output, home)) if process.returncode in (0, 3) else 0


def _fresh(work: Path) -> Path:
    """An empty home; no output."""
    shutil.rmtree(work / "home", ignore_errors=True)
    shutil.rmtree(work / "out", ignore_errors=True)
    (work / "home").mkdir(parents=True)
    return work / "home"


def page(results: list[Found], arguments: argparse.Namespace) -> str:
    from expunge.runs.environment import environment

    machine = environment()
    lines = [
        "# Runs that are killed",
        "",
        f"    OMP_NUM_THREADS=1 python benchmarks/reliability.py --kills {arguments.kills} --seed {arguments.seed}",
        "",
        "Each run was killed (SIGKILL) at moments drawn evenly from the time of an undisturbed run, up to three times",
        "before it could come to its end; the same command was given again each time. *Same*: weights, log, scores and",
        "verdict equal the undisturbed run's to the last bit. *Half*: an output that was there and not whole. *Left*:",
        "rounds after which a temporary folder or a checkpoint was still there.",
        f"Machine: {machine['machine']}, torch {machine['versions']['torch']}, {machine['created'][:10]}.",
        "",
        "| command | seconds undisturbed | kills | rounds | same | half | left |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for one in results:
        figures = (f"{one.seconds:.0f}", one.kills, one.rounds, one.same, one.half, one.left)
        lines.append(f"| {one.name} | " + " | ".join(map(str, figures)) + " |")
    lines += ["", *(f"- {one.name}: {said}" for one in results for said in one.failed)]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--page", type=Path, help="Markdown file to write")
    arguments = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    prepare(WORK)
    rng = random.Random(arguments.seed)
    todo = commands(WORK / "world", WORK)
    results = []
    for place, (name, given) in enumerate(todo.items()):
        found, expected = undisturbed(name, given, WORK)
        share = arguments.kills * (place + 1) // len(todo) - arguments.kills * place // len(todo)
        while found.kills < share:
            killed(found, given, expected, WORK, min(IN_A_ROUND, share - found.kills), rng)
            print(found, flush=True)
        results.append(found)
    text = page(results, arguments)
    print(text)
    if arguments.page:
        arguments.page.write_text(text, encoding="utf-8")
    if not all(one.holds for one in results):
        raise SystemExit("not all runs ended as if undisturbed")


if __name__ == "__main__":
    main()
