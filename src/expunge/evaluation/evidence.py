"""Evidence: everything a metric may look at, recorded by running a model once over each set of rows.

The only file of the evaluation that calls a model. What holds text (references, generations) lives in memory and is
never written below the output folder; `numbers` gives what may be.
"""

from collections.abc import Mapping, Sequence
from itertools import takewhile

import numpy as np
import torch
from numpy.typing import NDArray

from expunge.data.batches import passes
from expunge.data.rows import Row
from expunge.data.splits import shape
from expunge.data.tokens import end_of_answer, prompt_ids
from expunge.metric import Evidence, SetEvidence
from expunge.model import generation
from expunge.model.losses import target_logits, token_nll
from expunge.problem import Problem, Split
from expunge.progress import bar

Floats = NDArray[np.float64]
MOST_GENERATED = 256
ROOM = 8  # tokens beyond the reference that a generation may have


def record(problem: Problem, splits: Mapping[str, Split], silent: Sequence[str] = ()) -> Evidence:
    """Runs the problem's current model over the splits; those named in `silent` are not generated from."""
    problem.model.eval()
    return Evidence({name: _record_set(problem, split, name not in silent) for name, split in splits.items()})


def _record_set(problem: Problem, split: Split, generating: bool) -> SetEvidence:
    rows: list[list[Floats]] = [[] for _ in split.rows]
    per_window = _token_losses(problem, split)
    for window, losses in zip(split.windows, per_window, strict=True):
        rows[window.row].append(losses)
    joined = [np.concatenate(parts) for parts in rows]
    references, generations = generate(problem, split.rows) if generating else ([], [])
    nothing = [None] * len(split.rows)
    return SetEvidence(
        kinds=tuple(row.kind for row in split.rows),
        tasks=tuple(row.task for row in split.rows),
        loss=np.array([losses.mean() for losses in joined]),
        targets=np.array([float(len(losses)) for losses in joined]),
        token_loss=np.concatenate(joined),
        references=tuple(references or nothing),
        generations=tuple(generations or nothing),
        shapes=np.array([shape(row) for row in split.rows]),
    )


@torch.no_grad()
def _token_losses(problem: Problem, split: Split) -> list[Floats]:
    found: list[Floats] = [np.empty(0)] * len(split.windows)
    with problem.runtime.autocast():
        for batch in passes(split.name, split.windows):
            moved = batch.to(problem.runtime.device)
            losses = token_nll(target_logits(problem.model, moved), moved).double().cpu()
            sizes = batch.counted.sum(dim=1).tolist()
            for index, part in zip(batch.windows.tolist(), losses.split(sizes), strict=True):
                found[index] = part.numpy()
    return found


@torch.no_grad()
def generate(problem: Problem, rows: Sequence[Row], batch: int = 32) -> tuple[list[str | None], list[str | None]]:
    """References and greedy continuations of at most 256 rows (spread evenly), None for the others.

    Prompts are padded on the left with an attention mask; the checkpoint's own generation settings are not used.
    """
    references: list[str | None] = [None] * len(rows)
    generations: list[str | None] = [None] * len(rows)
    chosen = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_GENERATED)).round().astype(int)).tolist()
    prompts: dict[int, list[int]] = {}
    room: dict[int, int] = {}
    ends: dict[int, int | None] = {}
    for index in chosen:
        ids, reference = prompt_ids(rows[index], problem.rendering, problem.tokenizer)
        wanted = len(problem.tokenizer(reference, add_special_tokens=False)["input_ids"]) + ROOM
        room[index] = min(wanted, problem.rendering.context // 2)
        prompts[index] = ids[-(problem.rendering.context - room[index]) :]
        references[index] = reference
        ends[index] = end_of_answer(rows[index], problem.rendering, problem.tokenizer)
    ordered = sorted(chosen, key=lambda index: (room[index], len(prompts[index])))
    with bar("generating", len(ordered)) as report:
        for begin in range(0, len(ordered), batch):
            group = ordered[begin : begin + batch]
            most = max(room[index] for index in group)
            texts = _greedy(problem, [prompts[index] for index in group], [ends[index] for index in group], most)
            for index, text in zip(group, texts, strict=True):
                generations[index] = text
            report(begin + len(group))
    return references, generations


def _greedy(problem: Problem, prompts: Sequence[list[int]], ends: Sequence[int | None], room: int) -> list[str]:
    """Texts that continue the prompts, each up to EOS or the token that ends its turn."""
    width = max(len(prompt) for prompt in prompts)
    ids = torch.zeros(len(prompts), width, dtype=torch.long)
    attention = torch.zeros_like(ids)
    for place, prompt in enumerate(prompts):
        ids[place, width - len(prompt) :] = torch.tensor(prompt)
        attention[place, width - len(prompt) :] = 1
    end = problem.tokenizer.eos_token_id
    with problem.runtime.autocast():
        device = problem.runtime.device
        output = generation.generate(problem.model, ids.to(device), attention.to(device), end, room)
    new = [
        list(takewhile(lambda token, end=end: token != end, tokens))  # type: ignore[misc]
        for end, tokens in zip(ends, output[:, width:].cpu().tolist(), strict=True)
    ]
    return [text.strip() for text in problem.tokenizer.batch_decode(new, skip_special_tokens=True)]
