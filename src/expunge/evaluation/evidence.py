"""Evidence: everything a metric may look at, recorded by running a model once over each set of rows.

The only file of the evaluation that calls a model. What holds text (references, generations) lives in memory and is
never written below the output folder; `numbers` gives what may be.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import reduce
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from expunge.benchmark import Generating
from expunge.data.batches import Batch
from expunge.data.passes import Passes, Texts, measuring
from expunge.data.rows import Row
from expunge.data.splits import shape, spread
from expunge.data.tokens import Prompt, Window, encode, end_of_answer, prompt_ids
from expunge.evaluation import answers, divergence
from expunge.evaluation.divergence import Kept, Read
from expunge.model import generation
from expunge.model.losses import target_nll
from expunge.problem import Problem, Split
from expunge.runs import distributed
from expunge.runs.progress import bar
from expunge.scoring.evidence import Candidates, Evidence, SetEvidence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Floats = NDArray[np.float64]
NewIds = Callable[[Any, Sequence[list[int]], Sequence[int], int | None], list[list[int]]]  # see `generation.greedy`
ROOM = 8  # tokens beyond the reference that a generation may have
ROOM_STEP = 16
FEW, WASTE = 16, 0.75  # prompts of a group that is never split; padding beside what its prompts need
OWN = Generating()
# In this order; what `clean_up_tokenization_spaces` does in transformers 4.
CLEANED = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'")]
CLEANED += [(f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re")]


def record(
    problem: Problem,
    splits: Mapping[str, Split],
    silent: Sequence[str] = (),
    generating: Generating = OWN,
    kept: Mapping[str, Kept] | None = None,
    original: bool = False,
) -> Evidence:
    """Runs the problem's current model over the splits; those named in `silent` are not generated from.

    `kept`: the original's distributions, from which the model's are measured in the same pass (see
    `evaluation.divergence`); `original`: it is the model that they are of, so what was read then is not read again.
    """
    problem.model.eval()
    sets = {}
    for name, split in splits.items():
        held = (kept or {}).get(name)
        read = None if held is None else divergence.original(held) if original else divergence.read(problem, held)
        sets[name] = _record_set(problem, split, None if name in silent else generating, held, read)
    return Evidence(sets)


def cost(
    problem: Problem, splits: Mapping[str, Split], silent: Sequence[str], generating: Generating, batch: int
) -> Passes:
    """What `record` costs of one model, of a problem without one: `batch` is how many texts it generates at a time."""
    found = Passes()
    for name, split in splits.items():
        found = found + Passes(plain=measuring(split.windows))
        if name in silent:
            continue
        found = found + answers.cost(problem, split, name in generating.attacked)
        prompts = prompts_of(problem, split.rows, generating)
        groups = [[prompts[index] for index in group] for group in _groups(problem, prompts, batch, padded=True)]
        texts = [
            Texts(len(group), max(len(one.ids) for one in group), max(one.room for one in group)) for group in groups
        ]
        found = found + Passes(generated=texts)
    return found


def _record_set(
    problem: Problem, split: Split, generating: Generating | None, held: Kept | None, read: Read | None
) -> SetEvidence:
    rows: list[list[Floats]] = [[] for _ in split.rows]
    per_window = _token_losses(problem, split) if held is None or read is None else _joined(problem, split, held, read)
    for window, losses in zip(split.windows, per_window, strict=True):
        rows[window.row].append(losses)
    joined = [np.concatenate(parts) for parts in rows]
    references, generations = generate(problem, split.rows, generating) if generating else ([], [])
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
        candidates=_candidates(problem, split.rows, generating) if generating else {},
        kl=None if held is None or read is None else divergence.by_row(held, read, len(split.rows)),
        others=answers.others(problem, split.rows) if generating else None,
        tokens=answers.tokens(problem, split) if generating and split.name in generating.attacked else None,
    )


def _joined(problem: Problem, split: Split, held: Kept, read: Read) -> list[Floats]:
    """Losses of all windows: those that were read, and of the other rows those that are taken now."""
    inside = set(held.places)
    others = [place for place in range(len(split.rows)) if place not in inside]
    taken, rest = iter(read.losses), iter(_token_losses(problem, split.of(others, split.name)) if others else ())
    return [next(taken if window.row in inside else rest) for window in split.windows]


def _candidates(problem: Problem, rows: Sequence[Row], generating: Generating) -> dict[int, Candidates]:
    """Losses of each secret and of the candidates in its place, by row index; nothing where none are asked for."""
    if generating.candidates is None:
        return {}
    asked = [(index, found) for index, row in enumerate(rows) if (found := generating.candidates(row))]
    recorded: dict[int, Candidates] = {}
    with bar("scoring candidates", len(asked)) as report:
        for done, (index, found) in enumerate(asked, start=1):
            own = rows[index]
            texts = (own, *(replace(own, completion=text) for text in found.texts))
            recorded[index] = Candidates(_summed_losses(problem, texts), found.bits)
            report(done)
    return recorded


def _summed_losses(problem: Problem, rows: tuple[Row, ...]) -> Floats:
    """Losses [rows], summed over each row's targets but the end token, which says nothing of a secret."""
    end = problem.tokenizer.eos_token_id
    windows = tuple(_without_end(window, end) for window in encode(rows, problem.rendering, problem.tokenizer))
    sums = np.zeros(len(rows))
    losses = _token_losses(problem, Split("candidates", rows, windows))
    for window, found in zip(windows, losses, strict=True):
        sums[window.row] += found.sum()
    return sums


def _without_end(window: Window, end: int | None) -> Window:
    if end is None or window.ids[-1] != end:
        return window
    return replace(window, counted=(*window.counted[:-1], False))


@torch.no_grad()
def _token_losses(problem: Problem, split: Split) -> list[Floats]:
    found: dict[int, Floats] = {}

    def look(batch: Batch) -> None:
        losses = target_nll(problem.model, batch).double().cpu()
        sizes = batch.counted.sum(dim=1).tolist()
        for index, part in zip(batch.windows.tolist(), losses.split(sizes), strict=True):
            found[index] = part.numpy()

    with problem.runtime.autocast():
        problem.over(split, look)
    everywhere = distributed.gathered(found)
    return [everywhere[index] for index in range(len(split.windows))]


def generate(
    problem: Problem, rows: Sequence[Row], generating: Generating = OWN, batch: int | None = None
) -> tuple[list[str | None], list[str | None]]:
    """References and greedy continuations, None for rows that were not chosen.

    Depends neither on `batch` (none: by the model's size) in float32, nor on the checkpoint's own generation settings.
    Special tokens are dropped; spaces at the ends are kept.
    """
    prompts = prompts_of(problem, rows, generating)
    said = continued(problem, rows, prompts, generating.clean_up, batch)
    references = [prompts[index].reference if index in prompts else None for index in range(len(rows))]
    return references, [said.get(index) for index in range(len(rows))]


@torch.no_grad()
def continued(
    problem: Problem,
    rows: Sequence[Row],
    prompts: Mapping[int, Prompt],
    clean_up: bool,
    batch: int | None = None,
    new_ids: NewIds | None = None,
) -> dict[int, str]:
    """Continuations of prompts by the index of their row, greedy as `generate` has them unless others are made."""
    end = problem.tokenizer.eos_token_id
    batch = batch or generation.batch_size(sum(tensor.numel() for tensor in problem.model.parameters()))
    ids = [prompt.ids for prompt in prompts.values()]
    said: dict[int, str] = {}
    with bar("generating", len(prompts)) as report, problem.runtime.autocast():
        padded = not ids or distributed.from_main(lambda: generation.padding_is_harmless(problem.model, ids))

        def answer(group: Sequence[int]) -> None:
            room = [prompts[index].room for index in group]
            new = (new_ids or generation.greedy)(problem.model, [prompts[index].ids for index in group], room, end)
            for index, ids in zip(group, new, strict=True):
                last = end_of_answer(rows[index], problem.rendering, problem.tokenizer)
                own = list(takewhile(lambda token, last=last: token != last, ids))  # type: ignore[misc]
                said[index] = _text(problem.tokenizer, own, clean_up)

        for group in distributed.share(_groups(problem, prompts, batch, padded)):
            problem.portions.generate(group, answer)
            report(len(said))
    return dict(distributed.gathered(said))


def prompts_of(problem: Problem, rows: Sequence[Row], generating: Generating = OWN) -> dict[int, Prompt]:
    """Prompts of a spread of the rows that are generated from, by row index."""
    asked = [index for index, row in enumerate(rows) if generating.kinds is None or row.kind in generating.kinds]
    places = spread(len(asked), len(asked) if generating.rows is None else generating.rows)
    prompts: dict[int, Prompt] = {}
    for index in (asked[place] for place in places):
        ids, reference = prompt_ids(rows[index], problem.rendering, problem.tokenizer)
        prompts[index] = _prompt(problem, ids, reference, generating)
    return prompts


def _prompt(problem: Problem, ids: list[int], reference: str, generating: Generating) -> Prompt:
    """A prompt gives way to the room that the reference needs, to no more than that, and keeps half the context.

    What is left of the context is rounded down, so that prompts of like length have one room and fit one batch.
    """
    context = problem.rendering.context
    expected = len(problem.tokenizer(reference, add_special_tokens=False)["input_ids"])
    needed = min(expected + ROOM, context // 2)
    ids = ids[-(context - needed) :]
    left = max(needed, (context - len(ids)) // ROOM_STEP * ROOM_STEP)
    room = needed if generating.tokens is None else min(generating.tokens, left)
    return Prompt(ids, reference, room, expected)


def _groups(problem: Problem, prompts: Mapping[int, Prompt], batch: int, padded: bool) -> list[list[int]]:
    """Prompts that will end at about the same time, of like length; of one length where they may not be `padded`.

    Within a group the longest prompt and the largest room fit the context together, since all run as far as any does;
    so a group of more than a few ends where that would waste more than `WASTE` of what its prompts need.
    """
    groups: list[list[int]] = []
    for index in sorted(prompts, key=lambda index: prompts[index].order(padded)):
        group = [prompts[other] for other in [*groups[-1], index]] if groups else []
        lengths = {len(prompt.ids) for prompt in group}
        width = max(lengths) + max(prompt.room for prompt in group) if group else 0
        needed = sum(len(prompt.ids) + prompt.room for prompt in group)
        like = len(group) <= FEW or width * len(group) <= (1 + WASTE) * needed
        if 0 < width <= problem.rendering.context and like and len(group) <= batch and (padded or len(lengths) == 1):
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _text(tokenizer: "PreTrainedTokenizerBase", ids: list[int], clean_up: bool) -> str:
    """Cleaning is done here because transformers 5 leaves it out for byte-pair tokenizers, where 4 did it."""
    text = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return reduce(lambda cleaned, pair: cleaned.replace(*pair), CLEANED, text) if clean_up else text
