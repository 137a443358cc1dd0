"""What a loss needs of the original model, cached before anything moves: no second model, and one path for adapters
and full weights alike.

Kept per target: the K likeliest tokens and their log-probabilities. Where the vocabulary is larger than K the rest is
one class (see `model.losses.kept_kl`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from expunge.data.batches import Batch
from expunge.data.tokens import Window
from expunge.model.losses import kept_kl, margins, nll, per_window, read_targets, target_ids, target_nll, window_means
from expunge.problem import Problem, Split
from expunge.runs import distributed

KEPT = 256
EXACT_UP_TO = 1024


@dataclass(frozen=True, slots=True)
class KeptDistributions:
    """The original's likeliest tokens for each window of a split: log-probabilities and ids, each [targets, K].

    `losses` [targets]: what the targets themselves cost it, in nats, seen in the same pass.
    """

    log_probs: tuple[Tensor, ...]
    ids: tuple[Tensor, ...]
    losses: tuple[Tensor, ...] = ()

    def of(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Log-probabilities and ids [N, K] for the targets of a batch, in the order of its targets."""
        chosen = batch.windows.tolist()
        log_probs = torch.cat([self.log_probs[index] for index in chosen])
        ids = torch.cat([self.ids[index] for index in chosen])
        return log_probs.to(batch.ids.device), ids.to(batch.ids.device).long()

    def at(self, windows: Sequence[int]) -> "KeptDistributions":
        """Those of some windows, in that order; nothing is copied."""
        parts = (self.log_probs, self.ids, self.losses)
        return KeptDistributions(*(tuple(part[window] for window in windows) for part in parts))

    @property
    def loss_per_token(self) -> float:
        """Mean over all targets."""
        return float(torch.cat(self.losses).mean())


@torch.no_grad()
def keep_distributions(
    problem: Problem, split: Split, adjust: Callable[[Tensor, Tensor], Tensor] = lambda logits, labels: logits
) -> KeptDistributions:
    """Runs the original over a split once, or the first model of a line of requests (`Problem.reference`). About 2 kB a
    target at K = 256.

    `adjust(logits [n, V], labels [n])`: the logits of which the distributions are kept, in place of the original's.
    """
    found: dict[int, tuple[Tensor, ...]] = {}

    def read(logits: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return _likeliest(adjust(logits, labels), labels)

    with problem.reference() as reference, problem.runtime.autocast():

        def keep(batch: Batch) -> None:
            kept = read_targets(reference, batch, read, target_ids(batch))
            parts = zip(*(values.split(batch.counted.sum(dim=1).tolist()) for values in kept), strict=True)
            for index, (own, places, losses) in zip(batch.windows.tolist(), parts, strict=True):
                # clones, since a view would be sent with its whole batch
                found[index] = own.cpu().clone(), places.int().cpu(), losses.double().cpu()

        problem.over(split, keep)
    ordered = [one for _, one in sorted(distributed.gathered(found).items())]
    return KeptDistributions(*(tuple(one[part] for one in ordered) for part in range(3)))


def distinct(splits: Sequence[Split]) -> tuple[Window, ...]:
    """The windows of several splits, each once, however many it stands in."""
    return tuple({(window.ids, window.counted): window for split in splits for window in split.windows}.values())


def keep_each(problem: Problem, splits: Sequence[Split]) -> list[KeptDistributions]:
    """As `keep_distributions` of each, in one pass over their distinct windows."""
    windows = tuple(replace(window, row=place) for place, window in enumerate(distinct(splits)))
    places = {(window.ids, window.counted): window.row for window in windows}
    found = keep_distributions(problem, Split("kept", (), windows))
    return [found.at([places[window.ids, window.counted] for window in split.windows]) for split in splits]


def _likeliest(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities and ids [n, K] of what is kept, and losses [n]."""
    full = logits.log_softmax(dim=1)
    best = full.topk(full.shape[1] if full.shape[1] <= EXACT_UP_TO else KEPT, dim=1)
    return best.values, best.indices, nll(logits, labels)


@dataclass(frozen=True, slots=True)
class Divergences:
    """Sums over each window's targets [windows], in nats (float64, on the CPU), and the number of all targets."""

    kl: Tensor
    loss: Tensor
    targets: int

    @property
    def kl_per_token(self) -> float:
        return float(self.kl.sum()) / self.targets

    @property
    def loss_per_token(self) -> float:
        return float(self.loss.sum()) / self.targets


@torch.no_grad()
def window_divergences(problem: Problem, split: Split, kept: KeptDistributions) -> Divergences:
    """KL(original, current) and the loss of the problem's current model; `kept` are the original's distributions."""
    kl, loss = sums = torch.zeros(2, len(split.windows), dtype=torch.float64)

    def read(logits: Tensor, labels: Tensor, log_probs: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        return kept_kl(logits.log_softmax(dim=1), log_probs, ids), nll(logits, labels)

    def look(batch: Batch) -> None:
        found = read_targets(problem.model, batch, read, target_ids(batch), *kept.of(batch))
        places = batch.windows.cpu()
        kl[places], loss[places] = (per_window(values.double(), batch).cpu() for values in found)

    with problem.runtime.autocast():
        problem.over(split, look)
    distributed.total_({"kl and loss": sums})
    return Divergences(kl, loss, sum(window.targets for window in split.windows))


@torch.no_grad()
def log_likelihoods(problem: Problem, split: Split) -> Tensor:
    """Log-likelihood [windows] of each window's targets under the original, in nats (float32, on the CPU)."""
    found = torch.zeros(len(split.windows))
    with problem.original() as original, problem.runtime.autocast():

        def look(batch: Batch) -> None:
            found[batch.windows.cpu()] = -per_window(target_nll(original, batch), batch).float().cpu()

        problem.over(split, look)
    distributed.total_({"log-likelihoods": found})
    return found


@torch.no_grad()
def target_margins(problem: Problem, model: torch.nn.Module, split: Split) -> Tensor:
    """Margin [N] of each target of a split under a model, in the order of its windows (float64, on the CPU)."""
    found: dict[int, Tensor] = {}

    def read(logits: Tensor, ids: Tensor) -> tuple[Tensor]:
        return (margins(logits, ids),)

    def look(batch: Batch) -> None:
        values = read_targets(model, batch, read, target_ids(batch))[0].double().cpu()
        for window, own in zip(batch.windows.tolist(), values.split(batch.counted.sum(dim=1).tolist()), strict=True):
            found[window] = own.clone()  # a view would be sent with its whole batch

    with problem.runtime.autocast():
        problem.over(split, look)
    return torch.cat([values for _, values in sorted(distributed.gathered(found).items())])


@torch.no_grad()
def row_losses(problem: Problem, model: torch.nn.Module, split: Split) -> Tensor:
    """Mean loss [rows] of each row of a split under a model, in nats per target (float64, on the CPU)."""
    sums = torch.zeros(2, len(split.rows), dtype=torch.float64)

    def look(batch: Batch) -> None:
        means = window_means(target_nll(model, batch), batch).cpu().double()
        sizes, rows = batch.counted.sum(dim=1).cpu().double(), batch.rows.cpu()
        sums[0].index_add_(0, rows, means * sizes)
        sums[1].index_add_(0, rows, sizes)

    with problem.runtime.autocast():
        problem.over(split, look)
    distributed.total_({"losses and targets": sums})
    return sums[0] / sums[1]
