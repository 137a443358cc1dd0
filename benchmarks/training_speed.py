"""How fast plain training is, beside the Trainer of transformers on the same rows, as ratios in one run.

    python benchmarks/training_speed.py --output docs/results

Writes training_speed.md and training_speed.json there. Both train the same Llama with the same random weights on the
same rows of fictional people, 16 a step, with AdamW (fused in both), clipping and a linear schedule, in float32, on one
thread. Rows are given as token ids with prompts masked; the Trainer pads a batch to its longest row, as its collator
does, and neither logs, saves nor evaluates. *Mixed* rows are documents and questions as they are; of *prompted* rows
the prompt is two other documents and a question, the answer is short.

A run is some steps after one that warms up. What goes through the model and what the steps take are counted at the
model and the optimiser, the same for both: tokens without padding, in seconds of processor time of the one thread, so
that other work on the machine counts little. Runs take turns, each beginning from the same weights, and the first to
run changes from round to round; a ratio is the median over rounds of what two runs of the same round had. *As before*
is the training here with all logits made and a step over single tensors.
"""

import argparse
import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook
from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

from expunge.data import fiction
from expunge.data.rows import Row
from expunge.data.tokens import Rendering, Window, encode
from expunge.demo.tiny import byte_tokenizer, llama
from expunge.loop import training
from expunge.loop.training import Training, train
from expunge.model import losses
from expunge.problem import Problem, Split
from expunge.runs.distributed import Runtime
from expunge.runs.environment import environment

ROWS = 16  # a step
RENDERING = Rendering(end_documents=True, context=512)
OURS, BEFORE, THEIRS = "expunge", "as before", "Trainer"
GOAL = 1.2


@dataclass(frozen=True, slots=True)
class Size:
    """Shape of a model, how many steps of it are timed in how many rounds, and of which runs."""

    width: int
    layers: int
    heads: int
    vocabulary: int
    steps: int
    rounds: int
    runs: tuple[str, ...]


SIZES = {
    "3.5 million": Size(256, 4, 8, 2048, steps=3, rounds=5, runs=(OURS, THEIRS, BEFORE)),
    "20 million": Size(384, 8, 6, 16384, steps=2, rounds=3, runs=(OURS, THEIRS)),
}


@dataclass(frozen=True, slots=True)
class Speed:
    """One run: tokens (without padding), places (with it) and seconds of processor time."""

    tokens: int
    places: int
    seconds: float

    @property
    def rate(self) -> float:
        return self.tokens / self.seconds


def rows_of(kind: str, seed: int = 0) -> tuple[Row, ...]:
    """Fictional people: documents and questions, or questions after two other documents."""
    made = fiction.rows(fiction.people(60, seed), "rows")
    if kind == "mixed":
        return tuple(made)
    documents = [row.completion for row in made if row.kind == "document"]
    asked = [row for row in made if row.kind == "answer"]
    return tuple(
        replace(
            row, prompt=" ".join([*(documents[(2 * place + turn) % len(documents)] for turn in (0, 1)), row.prompt])
        )
        for place, row in enumerate(asked)
    )


@contextmanager
def counted(model: Any, found: list[Speed]) -> Iterator[None]:
    """Appends what went through the model between the first step of an optimiser and the last one."""
    seen, stamps = [0, 0], list[tuple[float, int, int]]()

    def look(module: Any, given: Any, named: dict[str, Any]) -> None:
        seen[0] += int(named["attention_mask"].sum())
        seen[1] += named["attention_mask"].numel()

    handles = [
        model.register_forward_pre_hook(look, with_kwargs=True),
        register_optimizer_step_post_hook(lambda *given: stamps.append((time.process_time(), *seen))),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
    first, last = stamps[0], stamps[-1]
    found.append(Speed(last[1] - first[1], last[2] - first[2], last[0] - first[0]))


def ours(model: Any, tokenizer: Any, rows: Sequence[Row], windows: Sequence[Window], size: Size) -> None:
    """Plain training as a fine-tune and a retrained twin have it."""
    problem = Problem(model, tokenizer, Runtime("cpu"), RENDERING, {}, movable=dict(model.named_parameters()))
    chosen = windows[: ROWS * (size.steps + 1)]
    train(problem, Split("train", tuple(rows), tuple(chosen)), Training(epochs=1, batch_rows=ROWS), "training")


def before(*given: Any) -> None:
    """The same with all logits, and with a step that goes over single tensors."""
    few, fused = losses.FEW_TARGETS, training.adamw
    losses.FEW_TARGETS, training.adamw = 0.0, plain
    try:
        ours(*given)
    finally:
        losses.FEW_TARGETS, training.adamw = few, fused


def plain(parameters: Sequence[Tensor], weight_decay: float) -> torch.optim.Optimizer:
    """AdamW as it was: one tensor after the other."""
    return torch.optim.AdamW(parameters, lr=0.0, betas=(0.9, 0.99), weight_decay=weight_decay, fused=False)


def theirs(model: Any, tokenizer: Any, rows: Sequence[Row], windows: Sequence[Window], size: Size) -> None:
    """The Trainer with the collator of transformers that pads labels, and its own defaults otherwise."""
    given = [
        {
            "input_ids": list(one.ids),
            "labels": torch.where(torch.tensor(one.counted), torch.tensor(one.ids), -100).tolist(),
        }
        for one in windows[: ROWS * (size.steps + 1)]
    ]
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            per_device_train_batch_size=ROWS,
            num_train_epochs=1,
            learning_rate=2e-5,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            use_cpu=True,
        )
        collator = DataCollatorForSeq2Seq(tokenizer)
        Trainer(model=model, args=arguments, train_dataset=given, data_collator=collator).train()


RUNS: dict[str, Callable[..., None]] = {OURS: ours, THEIRS: theirs, BEFORE: before}


@dataclass(frozen=True, slots=True)
class Case:
    """A model on rows of a kind: its parameters, the share of tokens that are targets, and speeds round by round."""

    size: str
    kind: str
    parameters: int
    targets: float
    runs: dict[str, list[Speed]]

    def ratio(self, run: str) -> float:
        """Tokens a second of our training over those of another, the median over rounds."""
        pairs = zip(self.runs[OURS], self.runs[run], strict=True)
        return statistics.median(one.rate / other.rate for one, other in pairs)


def measured(name: str, kind: str) -> Case:
    """Runs take turns, each from the same weights."""
    size, rows = SIZES[name], rows_of(kind)
    tokenizer = byte_tokenizer((f"{row.prompt} {row.completion}" for row in rows), 2048)
    shape = {"width": size.width, "layers": size.layers, "heads": size.heads, "context": RENDERING.context}
    model = llama(tokenizer, **shape, seed=0)
    model.resize_token_embeddings(size.vocabulary, mean_resizing=False)
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0)).tolist()
    rows = tuple(rows[place] for place in order)
    windows = encode(rows, RENDERING, tokenizer)
    names = [run for run in RUNS if run in size.runs]
    found: dict[str, list[Speed]] = {run: [] for run in names}
    for turn in range(size.rounds):
        first = turn % len(names)
        for run in names[first:] + names[:first]:
            here = copy.deepcopy(model)
            with counted(here, found[run]):
                RUNS[run](here, tokenizer, rows, windows, size)
            print(f"{name}, {kind}, round {turn + 1}: {run} {found[run][-1].rate:.0f} tokens/s", flush=True)
    parameters = sum(one.numel() for one in model.parameters())
    share = sum(one.targets for one in windows) / sum(len(one.ids) for one in windows)
    return Case(name, kind, parameters, share, found)


def table(cases: Sequence[Case]) -> list[str]:
    """A line for each case and run."""
    lines = [
        "| parameters | rows | targets, share of tokens | run | tokens/s | places a token | expunge is faster by |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        for run, speeds in case.runs.items():
            rate = statistics.median(one.rate for one in speeds)
            padded = sum(one.places for one in speeds) / sum(one.tokens for one in speeds)
            ratio = "" if run == OURS else f"{case.ratio(run):.2f}"
            cells = (
                f"{case.parameters:,}",
                case.kind,
                f"{case.targets:.0%}",
                run,
                f"{rate:,.0f}",
                f"{padded:.2f}",
                ratio,
            )
            lines.append("| " + " | ".join(cells) + " |")
    return lines


WORDS = """*Places a token*: what goes through the model, padding included, for each token of a row. Here a step's rows
are grouped by length within the step, so the step stays the mean over rows drawn at random. The Trainer's
`group_by_length`, which draws rows of like length into one step and so changes what a step is, is not part of this: it
groups nothing below eight steps' rows. *As before*: logits made for every place, and AdamW over single tensors. Logits
of prompts and padding are not made here where under four fifths of the places are targets: how much that saves goes
with the share of the vocabulary in a model's work.
""".split("\n")


def page(cases: Sequence[Case]) -> str:
    """The results in words and a table."""
    here, versions = environment(), environment()["versions"]
    against = {f"{case.size}, {case.kind}": case.ratio(THEIRS) for case in cases}
    reached = [f"{name}: {ratio:.3f}" + (" (missed)" if ratio < GOAL else "") for name, ratio in against.items()]
    return "\n".join(
        [
            "# Speed of plain training",
            "",
            "Made by `python benchmarks/training_speed.py --output docs/results`, whose docstring says what is timed;",
            f"one thread of a machine that had other work, {here['machine']}; torch {versions['torch']},",
            f"transformers {versions['transformers']}. Ratios are medians over rounds, in which runs took turns, of",
            "tokens (without padding) a second of processor time.",
            "",
            f"Beside transformers' Trainer as it comes, the goal being {GOAL}:",
            *(f"- {line}" for line in reached),
            "",
            *table(cases),
            "",
            *WORDS,
        ]
    )


def plain_values(cases: Sequence[Case]) -> dict[str, Any]:
    """For the file: every run of every round, and the ratios."""
    found = [
        {
            **{name: getattr(case, name) for name in ("size", "kind", "parameters", "targets")},
            "runs": {run: [asdict(one) for one in speeds] for run, speeds in case.runs.items()},
            "ratios": {run: case.ratio(run) for run in case.runs if run != OURS},
        }
        for case in cases
    ]
    return {"environment": environment(), "goal": GOAL, "cases": found}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True, help="folder for training_speed.md and .json")
    folder = parser.parse_args().output
    torch.set_num_threads(1)
    cases: list[Case] = []
    for name in SIZES:
        for kind in ("mixed", "prompted"):
            cases.append(measured(name, kind))
            (folder / "training_speed.json").write_text(json.dumps(plain_values(cases), indent=1) + "\n")
            (folder / "training_speed.md").write_text(page(cases), encoding="utf-8")


if __name__ == "__main__":
    main()
