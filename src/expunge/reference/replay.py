"""Replay: text sampled from the original model, which stands for what it knows and nobody handed over.

Seeded, and held in memory only: nothing of it reaches a disk. Samples that share eight tokens in a row with a forget
row are dropped and counted, since holding them in place would hold what must go; so are repeats.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from expunge.data.passes import Passes, Texts
from expunge.data.rows import Row
from expunge.data.tokens import Window
from expunge.model import generation
from expunge.problem import Problem, Split
from expunge.runs import distributed
from expunge.runs.progress import bar

SHARED_TOKENS = 8
LONGEST_OPENING = 4
BATCH = 128  # texts at a time


@dataclass(frozen=True, slots=True)
class Replay:
    """Sampled windows as a split (its rows are placeholders without text), and how many were dropped for what."""

    split: Split
    sampled: int
    near_forget: int
    repeats: int


@dataclass(frozen=True, slots=True)
class Expected:
    """Placeholders for texts that are not sampled yet, and what sampling them costs."""

    split: Split
    passes: Passes


def expected(count: int, tokens: int, context: int, batch: int = BATCH) -> Expected:
    """What sampling costs, and windows as long as the texts may get: how long they will be cannot be known."""
    width = min(tokens, context)
    window = Window(0, (0,) * width, (False,) + (True,) * (width - 1))
    windows = tuple(replace(window, row=place) for place in range(count))
    texts = Texts(batch, 1, max(1, width - 1))
    rows = tuple(Row("(replay)", place + 1, "document", "", "") for place in range(count))
    return Expected(Split("replay", rows, windows), Passes(generated=[texts] * math.ceil(count / batch)))


def sample(problem: Problem, count: int, tokens: int, batch: int = BATCH) -> Replay:
    """Samples until `count` texts of at most `tokens` tokens are kept, or three times as many were sampled.

    Half start from the begin token where the tokenizer adds one, half from the first few tokens of rows that are not
    forgotten; without such rows, from the first token of the forget rows. One of several processes samples for all:
    each text hangs on the draws before it.
    """
    return distributed.from_main(lambda: _sample(problem, count, tokens, batch))


@torch.no_grad()
def _sample(problem: Problem, count: int, tokens: int, batch: int) -> Replay:
    random = np.random.default_rng(problem.seed)
    grams = _grams([window.ids for window in problem.splits["forget"].windows])
    kept: list[Window] = []
    seen: set[tuple[int, ...]] = set()
    dropped = {"near_forget": 0, "repeats": 0}
    sampled = 0
    with bar("replay", count) as report, torch.random.fork_rng(devices=[], enabled=True):
        torch.manual_seed(problem.seed)
        while len(kept) < count and sampled < 3 * count:
            openings = _openings(problem, batch, random)
            for ids, start in _generated(problem, openings, tokens):
                sampled += 1
                if _grams([ids]) & grams:
                    dropped["near_forget"] += 1
                elif ids in seen:
                    dropped["repeats"] += 1
                elif len(kept) < count:
                    seen.add(ids)
                    kept.append(Window(len(kept), ids, tuple(place >= start for place in range(len(ids)))))
            report(len(kept))
    rows = tuple(Row("(replay)", index + 1, "document", "", "") for index in range(len(kept)))
    return Replay(Split("replay", rows, tuple(kept)), sampled, **dropped)


def _openings(problem: Problem, batch: int, random: np.random.Generator) -> list[tuple[int, ...]]:
    """Openings of one common length, so that a batch needs no padding."""
    begin = _begin(problem)
    if begin and random.random() < 0.5:
        return [begin] * batch
    sources = [problem.splits[name] for name in ("retain", "unseen") if name in problem.splits]
    windows = [window for split in sources for window in split.windows]
    length = len(begin) + int(random.integers(1, LONGEST_OPENING + 1))
    if not windows:
        windows, length = list(problem.splits["forget"].windows), len(begin) + 1
    long_enough = [window for window in windows if len(window.ids) > length] or windows
    chosen = random.integers(0, len(long_enough), size=batch)
    length = min(length, min(len(window.ids) for window in long_enough))
    return [long_enough[index].ids[:length] for index in chosen]


def _begin(problem: Problem) -> tuple[int, ...]:
    """The special tokens that the tokenizer puts before every text; empty where it puts none."""
    return tuple(problem.tokenizer("", add_special_tokens=True)["input_ids"][:1])


def _generated(problem: Problem, openings: Sequence[tuple[int, ...]], tokens: int) -> list[tuple[tuple[int, ...], int]]:
    """The continued openings, as many at a time as memory holds; where that was less, other draws of the same kind."""
    texts: list[tuple[tuple[int, ...], int]] = []
    problem.portions.generate(openings, lambda some: texts.extend(_generate(problem, some, tokens)))
    return texts


def _generate(problem: Problem, openings: Sequence[tuple[int, ...]], tokens: int) -> list[tuple[tuple[int, ...], int]]:
    prompt = torch.tensor(openings, device=problem.runtime.device)
    longest = min(tokens, problem.rendering.context)
    with problem.original() as original, problem.runtime.autocast():
        end = problem.tokenizer.eos_token_id
        new = max(1, longest - prompt.shape[1])
        output = generation.generate(original, prompt, torch.ones_like(prompt), end, new, sample=True)
    start = prompt.shape[1]
    texts = []
    for ids in output.tolist():
        body = ids[start:]
        if end is not None and end in body:
            body = body[: body.index(end) + 1]
        texts.append((tuple(ids[:start] + body), start))
    return [(ids, start) for ids, start in texts if len(ids) > start]


def _grams(texts: Sequence[Sequence[int]]) -> set[tuple[int, ...]]:
    return {tuple(ids[i : i + SHARED_TOKENS]) for ids in texts for i in range(len(ids) - SHARED_TOKENS + 1)}
