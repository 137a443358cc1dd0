"""How well the wording of other rows foretells a token: an n-gram model of the rows to keep and of never-seen ones.

Rows of one form share most of their tokens: of "the doctor who treats Ann is Dr. Hanberg" only the name is the row's
own. A model that never saw the row would give the rest as this one does, so the rest needs no forgetting. A base model
does not say which tokens these are, since it does not know the form, and is often not at hand.

Interpolated Witten-Bell (Witten and Bell 1991; Chen and Goodman 1999, equation 16): of a context c of k tokens

    p(w | c) = (n(c w) + d(c) p(w | c')) / (n(c) + d(c))

n counts in other rows, d(c) is how many different tokens followed c, c' is c without its first token, and at the end
every token is as likely. The same is asked of what stands before in the row itself, and the larger of the two counts:
what a row gives twice, or takes up from its prompt, a model that never saw it gives too (a cache, Kuhn and De Mori
1990; our mixture).
"""

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from expunge.data.tokens import Window

CONTEXT = 4  # tokens
MOST = 100_000  # tokens that are counted, of rows spread evenly: a few hundred megabytes at the most

Counts = dict[tuple[int, ...], dict[int, int]]


def margins(windows: Sequence[Window], others: Sequence[Window], vocabulary: int) -> Tensor:
    """log p - log(1 - p) of each target [N] of the windows, in their order; float64."""
    counts: Counts = defaultdict(dict)
    every = max(1, math.ceil(sum(len(window.ids) for window in others) / MOST))
    for window in others[::every]:
        for place in range(1, len(window.ids)):
            _count(counts, window.ids, place)
    found = [p for window in windows for p in _of(window, counts, vocabulary)]
    return torch.tensor(found, dtype=torch.float64).clamp(1e-12, 1 - 1e-6).logit()


def _of(window: Window, counts: Counts, vocabulary: int) -> list[float]:
    """Of one window's targets, with what stands before each in the window counted too."""
    own: Counts = defaultdict(dict)
    found = []
    for place in range(1, len(window.ids)):
        if window.counted[place]:
            before = _probability(window.ids, place, own, 0.0)
            found.append(max(before, _probability(window.ids, place, counts, 1 / vocabulary)))
        _count(own, window.ids, place)
    return found


def _count(counts: Counts, ids: Sequence[int], place: int) -> None:
    for width in range(min(CONTEXT, place) + 1):
        after = counts[tuple(ids[place - width : place])]
        after[ids[place]] = after.get(ids[place], 0) + 1


def _probability(ids: Sequence[int], place: int, counts: Counts, p: float) -> float:
    """`p`: what it is where no context was counted."""
    token = ids[place]
    for width in range(min(CONTEXT, place) + 1):
        after = counts.get(tuple(ids[place - width : place]))
        if not after:
            break
        p = (after.get(token, 0) + len(after) * p) / (sum(after.values()) + len(after))
    return p
