"""Evidence of answers: losses of other answers to a row's prompt, and what is read off each target beside its loss.

Teacher-forced, in batches as problems make them; what is found depends neither on the batches nor on how many processes
there are. Shapes: N targets of a batch, V vocabulary, C quantities.
"""

import zlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from expunge.data.batches import Batch
from expunge.data.passes import Passes, measuring
from expunge.data.rows import Row
from expunge.data.tokens import Window, encode, end_of_answer
from expunge.model.losses import Read, nll, read_targets, target_ids
from expunge.problem import Problem, Split
from expunge.runs import distributed
from expunge.scoring.evidence import OtherAnswers, Tokens
from expunge.scoring.intervals import Floats


def others(problem: Problem, rows: Sequence[Row]) -> OtherAnswers | None:
    """Mean losses per token of all other answers that rows have; None where none of them has any."""
    asked = _asked(rows)
    if not asked:
        return None
    split = Split("other answers", asked, tuple(encode(asked, problem.rendering, problem.tokenizer)))
    sums, counts = np.zeros(len(asked)), np.zeros(len(asked))
    read = _read(problem, split, lambda logits, ids: (nll(logits, ids),))
    for window, part in zip(split.windows, read, strict=True):
        sums[window.row] += part.sum()
        counts[window.row] += part.shape[1]
    losses = iter((sums / counts).tolist())
    most = {kind: max(len(_answers(row)[kind]) for row in rows) for kind in _answers(rows[0])}
    found = {kind: np.full((len(rows), count), np.nan) for kind, count in most.items()}
    for index, row in enumerate(rows):
        for kind, answers in _answers(row).items():
            for place in range(len(answers)):
                found[kind][index, place] = next(losses)
    return OtherAnswers(**found)


def tokens(problem: Problem, split: Split) -> Tokens:
    """Of all targets of a split but the end tokens of answers."""
    windows = tuple(_without_end(problem, split.rows[window.row], window) for window in split.windows)
    kept = [index for index, window in enumerate(windows) if window.targets]
    found = _read(problem, Split(split.name, split.rows, tuple(windows[index] for index in kept)), statistics)
    counts = np.zeros(len(split.rows))
    for index, part in zip(kept, found, strict=True):
        counts[windows[index].row] += part.shape[1]
    loss, likeliest, mean, variance = np.concatenate([np.empty((4, 0)), *found], axis=1)
    compressed = [float(len(zlib.compress(row.completion.encode()))) for row in split.rows]
    return Tokens(counts, loss, likeliest, mean, variance, np.array(compressed))


def statistics(logits: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Loss, whether it is the likeliest, and mean and variance of log p(v) for v drawn from p, of each target [N]."""
    log_p = logits.log_softmax(dim=1)
    p = log_p.exp()
    log_p = log_p.where(p > 0, 0.0)  # a vocabulary that a model masks: nothing of it is ever drawn
    mean = (p * log_p).sum(dim=1)
    # around the mean, not as a difference of squares, which rounds to less than 0 where p is all but certain
    variance = (p * (log_p - mean[:, None]).square()).sum(dim=1)
    loss = nll(logits, ids)
    right = (logits.argmax(dim=1) == ids).to(loss.dtype)
    return loss, right.where(~loss.isnan(), loss), mean, variance


def cost(problem: Problem, split: Split, attacked: bool) -> Passes:
    """What both take of a set, in passes; of a problem without a model."""
    windows = encode(_asked(split.rows), problem.rendering, problem.tokenizer)
    return Passes(plain=measuring(windows) + measuring(split.windows, 1 if attacked else 0))


def _asked(rows: Sequence[Row]) -> tuple[Row, ...]:
    """A row for each other answer, in the order of the rows."""
    return tuple(replace(row, completion=text) for row in rows for texts in _answers(row).values() for text in texts)


def _answers(row: Row) -> dict[str, tuple[str, ...]]:
    return {"paraphrased": row.paraphrased, "perturbed": row.perturbed}


def _without_end(problem: Problem, row: Row, window: Window) -> Window:
    ends = {problem.tokenizer.eos_token_id, end_of_answer(row, problem.rendering, problem.tokenizer)}
    if row.kind == "document" or window.ids[-1] not in ends:
        return window
    return replace(window, counted=(*window.counted[:-1], False))


@torch.no_grad()
def _read(problem: Problem, split: Split, read: Read) -> list[Floats]:
    """[C, targets] of each window: what `read(logits, ids)` gives of its targets, in one pass over the split."""
    found: dict[int, Floats] = {}

    def look(batch: Batch) -> None:
        values = torch.stack(read_targets(problem.model, batch, read, target_ids(batch))).double().cpu()
        sizes = batch.counted.sum(dim=1).tolist()
        for index, part in zip(batch.windows.tolist(), values.split(sizes, dim=1), strict=True):
            found[index] = part.numpy()

    with problem.runtime.autocast():
        problem.over(split, look)
    everywhere = distributed.gathered(found)
    return [everywhere[index] for index in range(len(split.windows))]
