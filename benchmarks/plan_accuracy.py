"""How near the figures of `expunge plan` come to what a run takes: FLOPs, peak memory and time on three shapes.

    python benchmarks/plan_accuracy.py --output docs/results

Writes plan.md and plan.json there. Weights are random, rows are invented, and runs are a few steps long: their cost is
what is looked at. Each run is a process of its own, and FLOPs are counted in another than time, which counting slows.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHAPES: dict[str, dict[str, Any]] = {
    "GPT-2, all weights": {"family": "gpt2", "subspace": "full", "words": 6, "method": "gradient_difference"},
    "Llama with grouped heads, LoRA": {"family": "llama", "subspace": "lora", "words": 20, "method": "loss_matching"},
    "OPT, all weights": {"family": "opt", "subspace": "full", "words": 10, "method": "loss_matching"},
    "Llama, margin_newton": {"family": "llama", "subspace": "full", "words": 10, "method": "margin_newton"},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "margin_newton": {"iterations": 3},
    "gradient_difference": {"epochs": 4, "forget_rows": 8},
    "loss_matching": {"steps": 4, "learning_rate": 1e-6, "replay_texts": 32, "replay_tokens": 48, "forget_rows": 8},
}
ROWS = {"forget": 8, "retain": 16, "holdout": 12}
NOTES = [
    "Models of 9 to 13 million parameters with random weights: gradient_difference on a GPT-2, loss_matching on LoRA",
    "of a Llama with grouped heads and on an OPT, three iterations of margin_newton on such a Llama. FLOPs: PyTorch's",
    "counter around all of `unlearn`, with eager attention; of margin_newton it does not see factorisations and",
    "triangular solves, and restorations are planned that a model which hardly moved leaves out. Memory, in bytes:",
    "the rise of the peak resident set over a process that only imports the same modules, with an allocator that",
    "hands freed blocks back at once, as it does with blocks above 32 MiB in any case; and with the allocator as it",
    "is, which keeps smaller ones and so takes more where weights are as small as here. Seconds: processor time of",
    "one thread on both sides, files included in the measured ones.",
]
COLOURS = "red green blue grey pink black white brown".split()


def make(shape: dict[str, Any], folder: Path, **sizes: int) -> None:
    """A model folder with random weights and files of invented rows below `folder`."""
    import torch
    from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, OPTConfig

    from expunge.demo.tiny import byte_tokenizer

    s = {"width": 512, "layers": 3, "vocabulary": 2000, "context": 512} | sizes
    shared = {"vocab_size": s["vocabulary"], "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1}
    usual = shared | {"num_hidden_layers": s["layers"], "num_attention_heads": 8, "hidden_size": s["width"]}
    config = {
        "gpt2": lambda: GPT2Config(
            **shared, n_embd=s["width"], n_layer=s["layers"], n_head=8, n_positions=s["context"]
        ),
        "llama": lambda: LlamaConfig(
            **usual,
            intermediate_size=s["width"] * 8 // 3,
            num_key_value_heads=2,
            max_position_embeddings=s["context"],
            tie_word_embeddings=False,
        ),
        "opt": lambda: OPTConfig(
            **usual, ffn_dim=4 * s["width"], word_embed_proj_dim=s["width"], max_position_embeddings=s["context"]
        ),
    }[shape["family"]]()
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).float().save_pretrained(folder / "model")
    byte_tokenizer([], 258).save_pretrained(folder / "model")
    for place, (name, count) in enumerate(ROWS.items()):
        rows = [_row(name, place, index, shape["words"]) for index in range(count)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def settings(shape: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What plan and unlearn are given."""
    files = {name: str(folder / f"{name}.jsonl") for name in ROWS}
    chosen = {name: shape[name] for name in ("method", "subspace")}
    options = shape.get("options", OPTIONS[shape["method"]])
    return {"model": str(folder / "model"), **files, **chosen, "options": options, "device": "cpu"}


def planned(shape: dict[str, Any], folder: Path) -> Any:
    """The plan's cost of this run."""
    from expunge import pipeline
    from expunge.config import commands, options

    return pipeline.run_plan(options.build(commands.Plan, settings(shape, folder), "plan")).estimate.methods[0]


def measured(shape: dict[str, Any], folder: Path, what: str, hand_back: bool = True) -> dict[str, float]:
    """What a run takes in a process of its own: `run` whole, `steps` (the method alone), `flops`, or `nothing`.

    With `hand_back` the allocator gives freed blocks back to the system at once, as it always does with those above
    32 MiB; with weights as small as these, blocks that it keeps for later would be a good part of the peak.
    """
    command = [sys.executable, __file__, "--worker", what, "--folder", str(folder), "--shape", json.dumps(shape)]
    at_once = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"} if hand_back else {}
    environment = os.environ | at_once | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return dict(json.loads(done.stdout.splitlines()[-1]))


def work(shape: dict[str, Any], folder: Path, what: str) -> dict[str, float]:
    """What the process of its own does. `nothing`: the imports alone, for the baseline."""
    import matplotlib.pyplot  # noqa: F401
    import peft  # noqa: F401
    from torch.utils.flop_counter import FlopCounterMode

    import expunge.pipeline
    from expunge.model import load

    given = settings(shape, folder)
    if what == "nothing":
        return {"peak": _peak()}
    if what == "steps":
        _steps_alone(given)
        return {"peak": _peak()}
    whole = given | {"output": str(folder / f"out-{len(list(folder.iterdir()))}"), "force": True}
    if what == "run":
        begin = time.process_time()
        expunge.unlearn(**whole)
        return {"peak": _peak(), "seconds": time.process_time() - begin}
    model_of = load.model_of

    def load_eager(*arguments: Any) -> Any:
        model = model_of(*arguments)
        model.set_attn_implementation("eager")  # its products are counted; a CPU's fused attention is left out
        return model

    load.model_of = load_eager
    with FlopCounterMode(display=False) as counter:
        expunge.unlearn(**whole)
    return {"flops": counter.get_total_flops()}


def _steps_alone(given: dict[str, Any]) -> None:
    """Everything of a run but judging and saving."""
    from dataclasses import replace

    from expunge import registry
    from expunge.config import commands, options
    from expunge.intake.assembly import assemble
    from expunge.intake.sets import check
    from expunge.loop.phases import apply
    from expunge.model.select import select

    run = options.build(commands.Unlearn, given, "run")
    assembled = assemble(run, check(run))
    chosen = select(assembled.problem.model, run.subspace, assembled.problem.runtime.device)
    problem = replace(assembled.problem, model=chosen.model, adapter=chosen.adapter, movable=chosen.movable)
    apply(options.build(registry.load("methods", run.method), run.options, "run"), problem, lambda entry: None)


def _peak() -> float:
    """Largest resident set of this process so far, in bytes (`ru_maxrss` would be that of its parent)."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024.0 * int(status.split("VmHWM:")[1].split()[0])


def _row(name: str, place: int, index: int, words: int) -> dict[str, str]:
    said = [COLOURS[(index * (word + 3 + place) + word * word + place) % len(COLOURS)] for word in range(words)]
    return {"prompt": f"What does {name} {index} like?", "completion": " ".join([*said, name, str(index)])}


def compare(shape: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Planned over measured, and both, for one shape."""
    make(shape, folder)
    cost = planned(shape, folder)
    baseline = measured(shape, folder, "nothing")["peak"]
    run, keeping = measured(shape, folder, "run"), measured(shape, folder, "run", hand_back=False)
    flops = {"planned": cost.step_flops + cost.other_flops, "measured": measured(shape, folder, "flops")["flops"]}
    figures = {
        "FLOPs": flops,
        "memory": {"planned": cost.memory.peak, "measured": run["peak"] - baseline},
        "memory, allocator as it is": {"planned": cost.memory.peak, "measured": keeping["peak"] - baseline},
        "memory, allocator as it is, with Python": {
            "planned": cost.memory.peak + baseline,
            "measured": keeping["peak"],
        },
        "seconds": {"planned": cost.seconds, "measured": run["seconds"]},
    }
    for pair in figures.values():
        pair["ratio"] = pair["planned"] / pair["measured"]
    return figures | {"interpreter": baseline, "stages": dict(cost.memory.stages)}


def page(results: dict[str, Any]) -> str:
    """The table in Markdown."""
    lines = ["# How near `plan` comes", "", "`python benchmarks/plan_accuracy.py --output docs/results` made this.", ""]
    lines += ["| shape | figure | planned | measured | planned / measured |", "| --- | --- | --- | --- | --- |"]
    for name, figures in results["shapes"].items():
        for what, pair in figures.items():
            if isinstance(pair, dict) and "ratio" in pair:
                cells = (name, what, *(f"{pair[key]:.3g}" for key in ("planned", "measured")), f"{pair['ratio']:.2f}")
                lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *NOTES]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="folder for plan.md and plan.json")
    parser.add_argument("--worker", choices=["nothing", "steps", "run", "flops"], help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--shape", type=json.loads, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(arguments.shape, arguments.folder, arguments.worker)))
        return
    if not arguments.output:
        parser.error("--output is missing: name a folder")
    import torch

    from expunge.planning import speed
    from expunge.runs.environment import environment

    torch.set_num_threads(1)
    speed.clock = time.process_time
    shapes: dict[str, Any] = {}
    for name, shape in SHAPES.items():
        with tempfile.TemporaryDirectory() as folder:
            shapes[name] = compare(shape, Path(folder))
        print(name, json.dumps(shapes[name], indent=1), flush=True)
    results = {"shapes": shapes, "environment": environment()}
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "plan.json").write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    (arguments.output / "plan.md").write_text(page(results), encoding="utf-8")


if __name__ == "__main__":
    main()
