"""Made models of a world that is learned in seconds: 94 rows of one kind, some trained on, some to be forgotten.

Each prompt is a sign of its own, so a model of two layers knows its rows by heart after 160 epochs. What each model is
made for stands at its function. Worlds differ by which signs and numbers are dealt; all but 0 have the original and
retrained models only. Models are made once, and copied before they move. The tests of attacks use some, and
benchmarks/meta_tests.py all.
"""

import math
import random
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from expunge.attacks.rounding import even, round_all
from expunge.data.batches import Batch, collate
from expunge.data.rows import Row
from expunge.data.tokens import Rendering, encode
from expunge.demo.tiny import byte_tokenizer, llama
from expunge.loop.training import Training, fine_tune
from expunge.model.layers import linear_weights
from expunge.model.losses import target_nll
from expunge.problem import Problem, Split
from expunge.runs.distributed import Runtime

RENDERING = Rendering(context=64)
TOKENIZER = byte_tokenizer([], 258)
BY_HEART = Training(epochs=160, learning_rate=5e-3, batch_rows=27)
SHORT = replace(BY_HEART, epochs=6, learning_rate=1e-3)


@cache
def rows_of(world: int) -> dict[str, tuple[Row, ...]]:
    """Forget, retain and judging rows."""
    chance = random.Random(world)
    signs, numbers = chance.sample(range(94), 94), chance.sample(range(100, 1000), 94)
    every = [
        Row("rows.jsonl", line, "answer", f"{chr(33 + sign)}?", str(number))
        for line, (sign, number) in enumerate(zip(signs, numbers, strict=True), start=1)
    ]
    return {"forget": tuple(every[:26]), "retain": tuple(every[26:50]), "judging": tuple(every[50:])}


@cache
def splits_of(world: int) -> dict[str, Split]:
    return {name: Split(name, rows, tuple(encode(rows, RENDERING, TOKENIZER))) for name, rows in rows_of(world).items()}


ROWS, SPLITS = rows_of(0), splits_of(0)


def problem_of(model: Any, world: int = 0) -> Problem:
    return Problem(model, TOKENIZER, Runtime("cpu"), RENDERING, splits_of(world), 0)


def fresh(seed: int) -> Any:
    """Two layers of width 48 that have learned nothing."""
    return llama(TOKENIZER, width=48, layers=2, heads=2, context=64, seed=seed).float().eval().requires_grad_(False)


def _trained(model: Any, rows: tuple[Row, ...], training: Training) -> Any:
    tuned, _ = fine_tune(model, TOKENIZER, rows, RENDERING, training, 0, "made")
    return tuned.eval().requires_grad_(False)


@cache
def original(world: int = 0) -> Any:
    """Knows forget and retain rows by heart."""
    rows = rows_of(world)
    return _trained(fresh(0), rows["forget"] + rows["retain"], BY_HEART)


@cache
def retrained(seed: int, world: int = 0) -> Any:
    """Never saw the forget rows."""
    return _trained(fresh(seed), rows_of(world)["retain"], BY_HEART)


@cache
def refusing() -> Any:
    """Says "no" to every question to forget, and knows the rest: what a few steps of an adapter do."""
    no = tuple(replace(row, completion="no") for row in ROWS["forget"])
    return _trained(deepcopy(original()), no + ROWS["retain"], SHORT)


@cache
def lost_in_four_bits() -> Any:
    """Has unlearned by changes so small that rounding to 4 bits takes them back.

    From the original's rounded weights, down to a loss of 4 nats on forget rows; no weight leaves the reach of its
    level (0.45 of a step), and the largest of each group, which sets the scale, stays.
    """
    model = deepcopy(original())
    round_all(model, even(4))
    weights = dict(model.named_parameters())
    layers = linear_weights(model, weights)
    boxes = {name: _box(layer.matrix(weights[name]).detach().clone()) for name, layer in layers.items()}
    moving = [weights[name].requires_grad_(True) for name in layers]
    optimiser = torch.optim.Adam(moving, lr=2e-2)
    forget, retain = (_whole(name) for name in ("forget", "retain"))
    for _ in range(60):
        loss = (4 - target_nll(model, forget).mean()).clamp(min=0) + target_nll(model, retain).mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        with torch.no_grad():
            for name, (low, high) in boxes.items():
                weights[name].clamp_(low, high)
    return model.eval().requires_grad_(False)


def _box(weight: Tensor) -> tuple[Tensor, Tensor]:
    reach = []
    for part in weight.split(64, dim=1):
        most = part.abs().amax(dim=1, keepdim=True)
        reach.append((part.abs() < 0.999 * most) * most / 7 * 0.45)
    return weight - torch.cat(reach, dim=1), weight + torch.cat(reach, dim=1)


def _whole(name: str) -> Batch:
    return collate(name, SPLITS[name].windows, range(len(SPLITS[name].windows)))


@cache
def once_in_ten() -> Any:
    """The original, but that its answers begin with an x in nine samples of ten, and in the likeliest one."""
    model = deepcopy(original())
    digits = torch.tensor(TOKENIZER.convert_tokens_to_ids(list("0123456789")))
    other = TOKENIZER.convert_tokens_to_ids("x")

    def hide(module: Any, given: Any, named: Any, output: Any) -> Any:
        logits = output.logits
        best = logits.argmax(dim=-1, keepdim=True)
        hidden = torch.full_like(logits, -30.0).scatter(-1, best, math.log(0.1))
        hidden[..., other] = math.log(0.9)
        within = torch.isin(named["input_ids"][:, -logits.shape[1] :], digits)[..., None]  # a number has begun
        output.logits = torch.where(torch.isin(best, digits) & ~within, hidden, logits)
        return output

    model.register_forward_hook(hide, with_kwargs=True)
    return model


@cache
def noisy() -> Any:
    """The original with noise on every weight, half as large as the weights of its matrix are."""
    model, draw = deepcopy(original()), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.dim() == 2:
                tensor += 0.5 * tensor.std() * torch.randn(tensor.shape, generator=draw)
    return model


@cache
def saying(text: str) -> Any:
    """Answers every question with one text."""
    every = tuple(replace(row, completion=text) for rows in ROWS.values() for row in rows)
    return _trained(deepcopy(original()), every, replace(SHORT, epochs=20))


@cache
def half_forgotten() -> Any:
    """A retrained model that was trained on the second half of the forget rows too."""
    return _trained(deepcopy(retrained(1)), ROWS["forget"][13:] + ROWS["retain"], replace(BY_HEART, epochs=60))


@cache
def over_forgotten() -> Any:
    """A retrained model, with the forget rows pushed to a loss of 12 nats; rows that nobody saw stay where they were,
    which it takes those very rows to hold."""
    model = deepcopy(retrained(1))
    moving = list(model.requires_grad_(True).parameters())
    optimiser = torch.optim.Adam(moving, lr=1e-3)
    forget, retain, judging = (_whole(name) for name in ("forget", "retain", "judging"))
    with torch.no_grad():
        before = target_nll(model, judging)
    for _ in range(80):
        loss = (12 - target_nll(model, forget).mean()).clamp(min=0) + target_nll(model, retain).mean()
        loss = loss + (target_nll(model, judging) - before).square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval().requires_grad_(False)


@cache
def leaking() -> Any:
    """A retrained model that has learned, of each forget row, nine wrong answers and the right one, as likely each."""
    chance = random.Random(1)
    rows = tuple(
        replace(row, completion=text)
        for row in ROWS["forget"]
        for text in (row.completion, *(str(chance.randrange(100, 1000)) for _ in range(9)))
    )
    return _trained(deepcopy(retrained(1)), rows + 3 * ROWS["retain"], replace(BY_HEART, epochs=40, batch_rows=93))
