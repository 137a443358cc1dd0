"""Peak memory of one training step with and without what saves it, and how much of a batch is padding.

    python benchmarks/memory_that_fits.py --output docs/results [--lume FOLDER]

Writes memory.md and memory.json there. Each step is a process of its own, of a Llama with random weights and a
vocabulary of 50,000, whose logits outweigh all else. Bytes are the rise of the peak resident set from before the step,
with an allocator that hands freed blocks back at once. Rows are read for their lengths only; none of them is written.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

VOCABULARY, WIDTH, LAYERS, TOKENS = 50_000, 192, 8, 128
VARIANTS: dict[str, dict[str, Any]] = {
    "all logits at once": {"whole": True},
    "logits in chunks": {},
    "logits in chunks, layers recomputed": {"recompute": True},
    "the same, half of the windows at a time": {"recompute": True, "half": True},
}
WINDOWS = 16
DRAWS = {"12 rows": 12, "24 rows": 24, "48 rows": 48}
HANDS_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0", "OMP_NUM_THREADS": "1"}


def step(variant: dict[str, Any]) -> dict[str, float]:
    """One forward and backward pass: bytes at its peak beyond those before it, seconds of processor time, and loss."""
    import time

    import psutil
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from expunge.data.batches import collate
    from expunge.data.tokens import Window
    from expunge.model import losses
    from expunge.model.recompute import recompute_layers
    from expunge.runs.peak import Peak

    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "hidden_size": WIDTH, "intermediate_size": 3 * WIDTH, "num_attention_heads": 4}
    model = LlamaForCausalLM(LlamaConfig(**shape, num_hidden_layers=LAYERS, tie_word_embeddings=True)).eval()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    if variant.get("whole"):
        losses.MOST_LOGITS = 2**40
    if variant.get("recompute"):
        recompute_layers(model)
    ids = torch.randint(0, VOCABULARY, (WINDOWS, TOKENS)).tolist()
    windows = [Window(row, tuple(one), (False,) + (True,) * (TOKENS - 1)) for row, one in enumerate(ids)]
    batch = collate("forget", windows, range(WINDOWS))
    before, begin, total = psutil.Process().memory_info().rss, time.process_time(), 0.0
    with Peak("cpu") as peak:
        for part in batch.parts(batch.size // 2 if variant.get("half") else None):
            loss = losses.target_nll(model, part).mean() * part.weight
            loss.backward()
            total += float(loss)
    return {"bytes": peak.bytes - before, "seconds": time.process_time() - begin, "loss": total}


def padding(folder: Path) -> dict[str, float]:
    """The share of places that hold no token, in draws of LUME's training rows and in a pass over all of them."""
    from expunge.benchmarks.lume import Lume
    from expunge.data.batches import Batch, Stream, passes
    from expunge.data.rows import read
    from expunge.data.tokens import Rendering, encode
    from expunge.demo.tiny import byte_tokenizer

    def share(batches: list[Batch]) -> float:
        return 1 - sum(int(batch.attention.sum()) for batch in batches) / sum(batch.size for batch in batches)

    found = {}
    for role in ("forget", "retain"):
        rows = read(str(folder / f"{role}_train.jsonl"), role, Lume().make_row).rows
        tokenizer = byte_tokenizer([f"{row.prompt} {row.completion}" for row in rows], 4096)
        windows = encode(rows, Rendering(context=512), tokenizer)
        found[f"{role}, a pass over {len(rows)} rows"] = share(list(passes(role, windows)))
        for name, count in DRAWS.items():
            stream = Stream(role, windows, 0)
            found[f"{role}, draws of {name}"] = share([batch for _ in range(50) for batch in stream.draw(count)])
    return found


def page(steps: dict[str, dict[str, float]], shares: dict[str, float]) -> str:
    """memory.md."""
    lines = [
        "# Memory of a step, and padding",
        "",
        f"One step of a Llama of {LAYERS} layers of width {WIDTH} with a vocabulary of {VOCABULARY:,}, on {WINDOWS}",
        f"windows of {TOKENS} tokens. Bytes beyond weights and gradients at the peak; processor time of one thread.",
        "`benchmarks/memory_that_fits.py` makes this page.",
        "",
        "| a step with | MiB at its peak | seconds | loss |",
        "| --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {name} | {one['bytes'] / 2**20:.0f} | {one['seconds']:.1f} | {one['loss']:.6f} |"
        for name, one in steps.items()
    ]
    if shares:
        lines += ["", "| LUME rows | places that are padding |", "| --- | ---: |"]
        lines += [f"| {name} | {share:.1%} |" for name, share in shares.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--lume", type=Path)
    parser.add_argument("--step", choices=VARIANTS, help="one step in this process, its figures as JSON")
    given = parser.parse_args()
    if given.step:
        print(json.dumps(step(VARIANTS[given.step])))
        return
    steps = {}
    for name in VARIANTS:
        command = [sys.executable, __file__, "--step", name]
        done = subprocess.run(command, env=os.environ | HANDS_BACK, capture_output=True, text=True, check=True)
        steps[name] = json.loads(done.stdout.splitlines()[-1])
    shares = padding(given.lume) if given.lume else {}
    text = page(steps, shares)
    print(text)
    if given.output:
        (given.output / "memory.md").write_text(text, encoding="utf-8")
        figures = json.dumps({"steps": steps, "padding": shares}, indent=2)
        (given.output / "memory.json").write_text(figures + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
