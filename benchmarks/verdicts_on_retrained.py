"""How often the verdict fails a model that is right: tiny retrained models, judged as if they were unlearned ones.

    python benchmarks/verdicts_on_retrained.py --worlds 60 61 62 63 --models 5 --output docs/results/verdicts.json

Each world has one base and one original; for each of its models other people are the forget set, and a twin is trained
from the base without them, with a seed of its own. A retrained model is what unlearning imitates, so each should pass,
under the attacks of `--evidence` too.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import expunge
from expunge.data.rows import read
from expunge.demo.models import RENDERING, SMALL, make_models
from expunge.loop.training import fine_tune
from expunge.model.save import write
from expunge.runs.environment import environment

ROWS_EACH = 5  # rows of one person


def judge(world: Path, folder: Path, seed: int, evidence: str) -> dict[str, object]:
    """Trains one twin without a random sixth of the people, and judges it."""
    rows = read(world / "train.jsonl", "train").rows
    lines = (world / "train.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    people = len(rows) // ROWS_EACH
    gone = set(np.random.default_rng(seed).permutation(people)[: SMALL.forget].tolist())
    chosen = [place // ROWS_EACH in gone for place in range(len(rows))]
    for name, wanted in (("forget", True), ("retain", False)):
        text = "".join(line for line, is_gone in zip(lines, chosen, strict=True) if is_gone == wanted)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(world / "original")
    base = AutoModelForCausalLM.from_pretrained(world / "base", dtype=torch.float32)
    kept = [row for row, is_gone in zip(rows, chosen, strict=True) if not is_gone]
    twin, _ = fine_tune(base, tokenizer, kept, RENDERING, SMALL.fine_tuning, seed, f"twin {seed}")
    write(twin, tokenizer, folder / "twin", torch.float32)
    run = expunge.evaluate(
        model=str(world / "original"),
        unlearned=str(folder / "twin"),
        forget=str(folder / "forget.jsonl"),
        retain=str(folder / "retain.jsonl"),
        holdout=str(world / "holdout.jsonl"),
        evidence=evidence,
        output=str(folder / "judged"),
    )
    return (
        {"seed": seed}
        | {key: getattr(run.verdict, key) for key in ("passes", "forget", "rest", "counts")}
        | {"attacks": {one.attack: one.verdict for one in run.record.attacks.results}}
        | {"reasons": run.verdict.reasons}
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, nargs="+", default=[60, 61, 62, 63], help="their seeds")
    parser.add_argument("--models", type=int, default=5, help="of each world")
    parser.add_argument("--evidence", choices=("quick", "full", "audit"), default="full")
    parser.add_argument("--output", type=Path, required=True, help="JSON file to write")
    arguments = parser.parse_args()
    results: list[dict[str, object]] = []
    for number in arguments.worlds:
        with tempfile.TemporaryDirectory() as folder:
            world = Path(folder) / "world"
            world.mkdir()
            make_models(world, replace(SMALL, seed=number), print)
            for seed in range(arguments.models):
                one = Path(folder) / str(seed)
                one.mkdir()
                results.append({"world": number} | judge(world, one, seed, arguments.evidence))
                print(json.dumps(results[-1]), flush=True)
    passed = sum(bool(result["passes"]) for result in results)
    summary = {"passed": passed, "models": len(results), "evidence": arguments.evidence, "results": results}
    text = json.dumps(summary | {"environment": environment()}, indent=1) + "\n"
    arguments.output.write_text(text, encoding="utf-8")
    print(f"{passed} of {len(results)} retrained models pass")


if __name__ == "__main__":
    main()
