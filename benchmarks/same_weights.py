"""Whether a change of the code changed any weight: hashes of what each method writes, before and after.

Runs `expunge unlearn` with each method on a tiny world of fictional people, in full weights and LoRA, with one process
and with two, and `expunge retrain`, and writes the SHA-256 of every written tensor to a JSON file; with `--than FILE`
it says what differs from an earlier one. One thread, so that sums are made in one order. About ten minutes.

    python benchmarks/same_weights.py --output after.json --than before.json
"""

import argparse
import hashlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

SHORT = ["--options.learning-rate", "1e-3"]
EPOCHS = [*SHORT, "--options.epochs", "3", "--options.forget-rows", "8"]
FEW = ["--options.steps", "24", "--options.replay-texts", "16", "--options.replay-tokens", "32"]
RUNS: dict[str, list[str]] = {
    "gradient_ascent": ["gradient_ascent", *EPOCHS],
    "gradient_difference": ["gradient_difference", *EPOCHS],
    "kl_minimisation": ["kl_minimisation", *EPOCHS],
    "npo": ["npo", *EPOCHS, "--options.retain-weight", "1"],
    "loss_matching": ["loss_matching", *FEW],
    "libu": ["libu", *FEW],
    "libu block adamw": [
        *["libu", *FEW, "--options.curvature", "block", "--options.curvature-options", "gradients", "16"],
        *["--options.cycles", "2", "--options.step", "targets", "--options.optimiser", "adamw"],
    ],
    "libu as published": ["libu_as_published", "--options.steps", "6"],
    "fisher_removal": ["fisher_removal", "--options.cycles", "2"],
    "fisher_removal block restore": [
        *["fisher_removal", "--options.curvature", "block", "--options.curvature-options", "gradients", "16"],
        *["--options.cycles", "3", "--options.restore", "--options.step", "targets"],
    ],
    "fisher_forgetting": ["fisher_forgetting", "--options.cycles", "2"],
    "fisher_forgetting noisy": ["fisher_forgetting", "--options.cycles", "2", "--options.reading", "noisy_newton"],
}
ROWS = ("forget", "retain", "holdout")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--than", type=Path)
    parser.add_argument("--world", type=Path, help="folder of models and rows to use, made where it is not there")
    parser.add_argument("--only", nargs="*", help="words that the name of a run must hold")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        world = given.world or Path(folder) / "world"
        if not world.exists():
            make_world(world)
        found = {"models": {f"{path.name}": tensors(path) for path in sorted(world.iterdir()) if path.is_dir()}}
        for name, hashes in runs(world, Path(folder), given.only or []):
            found[name] = hashes
            print(f"{name}: {hashlib.sha256(json.dumps(hashes).encode()).hexdigest()[:12]}", flush=True)
            given.output.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if given.than:
        sys.exit(compare(json.loads(given.than.read_text(encoding="utf-8")), found))


def make_world(folder: Path) -> None:
    """Models of three people to forget and twelve to keep, trained for seconds."""
    import torch

    from expunge.demo.models import World, make_models
    from expunge.loop.training import Training

    torch.set_num_threads(1)
    folder.mkdir(parents=True)
    training = Training(epochs=8, learning_rate=3e-3, batch_rows=16)
    small = {"forget": 3, "retain": 12, "collateral": 3, "holdout": 16, "pretrain": 30, "width": 48, "layers": 2}
    make_models(folder, World(seed=11, **small, pretraining=training, fine_tuning=training), print)


def runs(world: Path, folder: Path, words: list[str]) -> Iterator[tuple[str, dict[str, str]]]:
    given = ["--model", str(world / "original"), "--base", str(world / "base"), "--device", "cpu"]
    rows = [part for role in ROWS for part in (f"--{role}", str(world / f"{role}.jsonl"))]
    for name, method in RUNS.items():
        for subspace in ("full", "lora"):
            for processes in (1, 2):
                label = f"{name}, {subspace}, {processes}"
                if not all(word in label for word in words):
                    continue
                output = folder / label.replace(" ", "-")
                command = ["unlearn", *given, *rows, "--force", "--method", *method, "--subspace", subspace]
                run([*command, "--output", str(output)], processes, folder)
                yield label, tensors(output)
    if all(word in "retrain" for word in words):
        (folder / "training.yaml").write_text("epochs: 2\nbatch_rows: 8\nlearning_rate: 0.002\n", encoding="utf-8")
        more = ["--train", str(world / "train.jsonl"), "--train-config", str(folder / "training.yaml")]
        run(["retrain", *given, *rows[:2], *more, "--output", str(folder / "twin")], 1, folder)
        yield "retrain", tensors(folder / "twin")


def run(command: list[str], processes: int, folder: Path) -> None:
    """One command by one process or two. Exits where it ends otherwise than with a verdict."""
    own = {"XDG_CONFIG_HOME": str(folder / "config"), "EXPUNGE_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    environment = os.environ | own
    if processes > 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        environment |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {} for rank in range(processes)]
    full = [sys.executable, "-m", "expunge", *command]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    started = [subprocess.Popen(full, env=environment | rank, cwd=folder, **pipe) for rank in ranks]  # type: ignore[call-overload]
    said = [one.communicate()[0] for one in started]
    if started[0].returncode == -signal.SIGABRT:  # gloo's threads at the interpreter's end, after all was written
        print(f"{command[-1]}: {said[0].splitlines()[-1:]}", flush=True)
    elif any(one.returncode not in (0, 3) for one in started):
        sys.exit(f"{' '.join(command)}\n{said[0]}")


def tensors(folder: Path) -> dict[str, str]:
    """SHA-256 of every tensor of a model folder, by name."""
    from safetensors.torch import load_file

    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        for name, tensor in load_file(file).items():
            found[name] = hashlib.sha256(tensor.contiguous().view(-1).numpy().tobytes()).hexdigest()[:16]
    return found


def compare(before: dict[str, dict[str, str]], after: dict[str, dict[str, str]]) -> int:
    """Prints what differs; the number of runs that do."""
    changed = [name for name in before if name in after and before[name] != after[name]]
    for name in before.keys() ^ after.keys():
        print(f"{name}: only in {'the earlier file' if name in before else 'this one'}")
    for name in changed:
        count = sum(before[name].get(key) != value for key, value in after[name].items())
        print(f"{name}: DIFFERS" + (f" in {count} of {len(after[name])} tensors" if name != "models" else ""))
    print(f"{len(before.keys() & after.keys()) - len(changed)} the same, {len(changed)} differ")
    return int(bool(changed))


if __name__ == "__main__":
    main()
