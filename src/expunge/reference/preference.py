"""Preference of one answer over another: pairs of forget rows and other answers, and the loss of DPO on them.

    loss = (2 / beta) mean_i log(1 + (r_i / r'_i)^beta),    r = p(x) / p_original(x),  r' = p(x') / p_original(x')

for a forget row x and the same row with another answer x': Rafailov et al. (2305.18290), with the factor 2 / beta that
Zhang et al. (2404.05868) give it beside NPO, whose loss it is with r' = 1. p is the likelihood of a whole row, the
product over its targets. The original's likelihoods are computed once; there is no second model.

A pair is one window of the forget row and the first window of the other answer: a row longer than the context makes
several pairs, and of a longer answer only what fits is preferred. A row with several other answers makes that many
pairs. Both windows of a pair go through the model in one step, so a batch takes about twice its tokens.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch.nn.functional as F

from expunge.data.batches import Batch, collate
from expunge.data.passes import Passes, measuring
from expunge.data.rows import Row
from expunge.data.tokens import encode
from expunge.method import Descend, State, Terms
from expunge.model.losses import per_window, target_nll, window_means
from expunge.problem import Problem, Split
from expunge.reference.cache import log_likelihoods

AVOIDED, PREFERRED = "avoided", "preferred"
BESIDE = {AVOIDED: PREFERRED}  # splits whose windows at the same place are a pair
Answers = Callable[[Row], Sequence[str]]


def pairs(problem: Problem, answers: Answers) -> dict[str, Split]:
    """The splits "avoided" and "preferred": the windows at one place are a pair. First the first answer of every row,
    then the second ones."""
    forget = problem.splits["forget"]
    given = [tuple(answers(row)) for row in forget.rows]
    every = [
        (place, answers[turn])
        for turn in range(max(map(len, given)))
        for place, answers in enumerate(given)
        if turn < len(answers)
    ]
    others = tuple(answered(forget.rows[place], text) for place, text in every)
    first = {window.row: window for window in reversed(encode(others, problem.rendering, problem.tokenizer))}
    of_row: dict[int, list[int]] = {}
    for index, window in enumerate(forget.windows):
        of_row.setdefault(window.row, []).append(index)
    paired = [(pair, index) for pair, (place, _) in enumerate(every) for index in of_row[place]]
    avoided = tuple(replace(forget.windows[index], row=pair) for pair, index in paired)
    rows = tuple(forget.rows[place] for place, _ in every)
    return {
        AVOIDED: Split(AVOIDED, rows, avoided),
        PREFERRED: Split(PREFERRED, others, tuple(first[pair] for pair, _ in paired)),
    }


def answered(row: Row, text: str) -> Row:
    """The row with another answer; of a document, another text."""
    turns = (*row.messages[:-1], ("assistant", text)) if row.messages else ()
    return replace(row, completion=text, messages=turns, cut=0)


def likelihoods(problem: Problem) -> State:
    """Log-likelihoods of both sides under the original; a forget window that stands in several pairs is run once."""
    forget = problem.splits["forget"]
    places = {(window.ids, window.counted): index for index, window in enumerate(forget.windows)}
    of_forget = log_likelihoods(problem, forget)
    avoided = [places[window.ids, window.counted] for window in problem.splits[AVOIDED].windows]
    return State(caches={AVOIDED: of_forget[avoided], PREFERRED: log_likelihoods(problem, problem.splits[PREFERRED])})


def cost(problem: Problem) -> Passes:
    """Of `likelihoods`."""
    return Passes(plain=[part for name in ("forget", PREFERRED) for part in measuring(problem.splits[name].windows)])


def descent(
    problem: Problem, loss: Callable[[Problem, State, Batch], Terms], rows: int, epochs: int, rate: float
) -> Descend:
    """As many steps as `epochs` passes over the forget windows take, so many pairs and retain rows in each.

    Of several answers to a row each has its turn before one has its second.
    """
    steps = epochs * -(-len(problem.splits["forget"].windows) // rows)
    draws = {AVOIDED: rows, "retain": rows}
    return Descend(loss=loss, draws=draws, steps=steps, rate=rate, beside=BESIDE)


def loss(problem: Problem, state: State, batch: Batch, beta: float, retain_weight: float) -> Terms:
    """DPO on a batch of "avoided" windows and those preferred to them, or the retain rows' cross-entropy."""
    nll = target_nll(problem.model, batch)
    own = window_means(nll, batch).mean()
    if batch.split == "retain":
        return Terms({"retain": own}, retain_weight * own)
    places = batch.windows.cpu()
    other = collate(PREFERRED, problem.splits[PREFERRED].windows, places.tolist()).to(batch.ids.device)
    other_nll = target_nll(problem.model, other)
    rise, fall = (
        -per_window(losses, one) - state.caches[one.split][places].to(losses.device)
        for losses, one in ((other_nll, other), (nll, batch))
    )
    parts = {"forget": own, "preferred": window_means(other_nll, other).mean()}
    return Terms(parts, 2 / beta * F.softplus(beta * (fall - rise)).mean())
