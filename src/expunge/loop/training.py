"""Plain training: a fine-tune, or its retrained twin."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from expunge.config import lora
from expunge.config.bounds import Told
from expunge.data.batches import Batch, Stream
from expunge.data.passes import Passes, drawing
from expunge.data.portions import Portions
from expunge.data.rows import Row
from expunge.data.tokens import Rendering, Window, encode
from expunge.loop.minimise import Minimiser, linear
from expunge.method import Terms
from expunge.model.losses import target_nll
from expunge.model.recompute import allow
from expunge.model.select import select
from expunge.optim.adamw import adamw
from expunge.optim.stepper import Plain
from expunge.problem import Problem, Split
from expunge.runs.checkpoint import Checkpoints
from expunge.runs.distributed import Runtime
from expunge.runs.growing import Log
from expunge.runs.progress import bar

TRAINING = "training"
LOGGED = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """Settings of plain training (a fine-tune, or its retrained twin): what `--train-config` holds."""

    epochs: int = 3
    """Passes over the training rows."""
    learning_rate: float = 2e-5
    """Peak learning rate of AdamW."""
    batch_rows: int = 16
    """Windows a step."""
    warmup_share: float = 0.05
    """Share of the steps spent warming up."""
    weight_decay: float = 0.0
    """AdamW's decoupled weight decay."""
    subspace: Annotated[str, Told(lora.text)] = "full"
    """Which parameters move: full, lora (also with settings), a pattern, or adapter (a new one like that of an original
    that is one)."""


def cost(windows: Sequence[Window], training: Training, seed: int) -> Passes:
    """What training on windows takes."""
    steps = steps_of(windows, training)
    return Passes(trained=drawing({"train": windows}, {"train": training.batch_rows}, seed, steps), updates=steps)


def steps_of(windows: Sequence[Window], training: Training) -> int:
    return training.epochs * max(1, -(-len(windows) // training.batch_rows))


def fine_tune(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    rendering: Rendering,
    training: Training,
    seed: int,
    title: str,
    portions: Portions | None = None,
    recompute: bool = False,
    checkpoints: Checkpoints | None = None,
    log: Log = lambda entry: None,
) -> tuple[PreTrainedModel, float]:
    """Plain training of a model on rows; returns the model and the last epoch's mean loss.

    `portions`: how many tokens at a time; none: what memory holds. `recompute`: with gradient checkpointing.

    A LoRA of our own is merged; an adapter that the model came with is trained and stays one.
    """
    runtime = Runtime(str(model.device))
    split = Split("train", tuple(rows), tuple(encode(rows, rendering, tokenizer)))
    model = model if isinstance(model, PeftModel) else model.float()  # an adapter's base may be quantised
    subspace = select(model, training.subspace, runtime.device)
    portions = portions or Portions()
    allow(portions, subspace.model, recompute)
    problem = Problem(
        subspace.model,
        tokenizer,
        runtime,
        rendering,
        {},
        seed,
        subspace.adapter,
        movable=subspace.movable,
        portions=portions,
    )
    loss = train(problem, split, training, title, checkpoints, log)
    return (subspace.model.merge_and_unload() if subspace.adapter else subspace.model), loss


def train(
    problem: Problem,
    split: Split,
    training: Training,
    title: str,
    checkpoints: Checkpoints | None = None,
    log: Log = lambda entry: None,
) -> float:
    """Cross-entropy on all windows of a split, the usual mean over tokens; returns the last epoch's mean loss.

    With `checkpoints`, an interrupted training goes on where it was. The losses of some 200 steps are logged.
    """
    stream = Stream(split.name, split.windows, problem.seed, by_tokens=True)
    steps = steps_of(split.windows, training)
    an_epoch = steps // training.epochs
    recent: list[float] = []

    def loss(batch: Batch) -> Terms:
        value = target_nll(problem.model, batch).mean()
        return Terms({"loss": value}, value)

    def make(parameters: Sequence[Tensor]) -> torch.optim.Optimizer:
        return adamw(parameters, training.weight_decay)

    minimiser = Minimiser(
        problem,
        Plain(make=make).begin(problem, {}, problem.seed, lambda name, figures: None),
        {split.name: stream},
        {split.name: training.batch_rows},
        loss,
        linear(training.learning_rate, steps, int(steps * training.warmup_share)),
        steps,
    )
    if saved := checkpoints.load(TRAINING) if checkpoints else None:
        problem.restore(saved["weights"])
        minimiser.load_state_dict(saved["minimiser"])
        recent += saved["recent"]

    def logged(step: int) -> None:
        if step % max(1, steps // LOGGED) == 0:
            log({"step": step, "loss": recent[step - 1]})

    for step in range(1, len(recent) + 1):  # of before the interruption
        logged(step)

    def after(step: int, losses: Mapping[str, float]) -> bool:
        recent.append(losses["loss"])
        logged(step)
        if checkpoints and step < steps:
            checkpoints.offer(
                TRAINING,
                lambda: {"recent": recent, "weights": problem.snapshot(), "minimiser": minimiser.state_dict()},
            )
        return False

    problem.model.train()
    with bar(title, steps) as report:
        minimiser.run(after, report)
    problem.model.eval()
    return sum(recent[-an_epoch:]) / an_epoch
