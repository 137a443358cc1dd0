"""Made models of a world that is learned in seconds: 84 rows of one kind, some trained on, some to be forgotten.

Each prompt is a sign of its own, so a model of two layers knows its rows by heart after 160 epochs. What each model is
made for stands at its function. Models are made once, and copied before they move.
"""

import math
import random
from copy import deepcopy
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from expunge.attacks.rounding import round_all
from expunge.data.batches import Batch, collate
from expunge.data.rows import Row
from expunge.data.tokens import Rendering
from expunge.demo.tiny import byte_tokenizer
from expunge.loop.training import Training, fine_tune
from expunge.model.layers import linear_weights
from expunge.model.losses import target_nll
from expunge.problem import Problem, Split
from expunge.runs.distributed import Runtime
from problems import TEXT_VOCABULARY, encoded, text_model

RENDERING = Rendering(context=64)
TOKENIZER = byte_tokenizer([], TEXT_VOCABULARY)
BY_HEART = Training(epochs=160, learning_rate=5e-3, batch_rows=27)
SHORT = replace(BY_HEART, epochs=6, learning_rate=1e-3)


def _rows() -> dict[str, tuple[Row, ...]]:
    chance = random.Random(0)
    signs, numbers = chance.sample(range(94), 84), chance.sample(range(100, 1000), 84)
    every = [
        Row("rows.jsonl", line, "answer", f"{chr(33 + sign)}?", str(number))
        for line, (sign, number) in enumerate(zip(signs, numbers, strict=True), start=1)
    ]
    return {"forget": tuple(every[:30]), "retain": tuple(every[30:54]), "judging": tuple(every[54:])}


ROWS = _rows()
SPLITS: dict[str, Split] = {name: encoded(name, rows, TOKENIZER) for name, rows in ROWS.items()}


def problem_of(model: Any) -> Problem:
    return Problem(model, TOKENIZER, Runtime("cpu"), RENDERING, SPLITS, 0)


def _trained(model: Any, rows: tuple[Row, ...], training: Training) -> Any:
    tuned, _ = fine_tune(model, TOKENIZER, rows, RENDERING, training, 0, "made")
    return tuned.eval().requires_grad_(False)


@cache
def original() -> Any:
    """Knows forget and retain rows by heart."""
    return _trained(text_model(width=48), ROWS["forget"] + ROWS["retain"], BY_HEART)


@cache
def retrained(seed: int) -> Any:
    """Never saw the forget rows."""
    return _trained(text_model(width=48, seed=seed), ROWS["retain"], BY_HEART)


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
    round_all(model, 4)
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
