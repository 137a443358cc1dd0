"""margin_newton on memorised models: requests of three sizes beside loss_matching, and what each of its parts does.

    python benchmarks/margin_newton.py --lume FOLDER --output OUTPUT [--parts requests ablation] [--seeds 0 1 2]
                                       [--variants NAME ...]

Uses rows and models of benchmarks/lume_small.py, and makes those that are not there; the original has memorised 446
rows. Half of the retain rows are given; the other half, and the forget rows that are not asked for, are in no file:
`not given`. The parts:

- `requests`: 3 documents, a tenth and half of what was memorised (10, 48 and 220 rows), margin_newton and
  loss_matching;
- `ablation`, on 48 rows: curvatures, margins against losses, one constraint a row against one for all, token weights,
  restorations and their projection, damping, layers, rows of the fit. All end at about the same forget loss.

Cells are lines of OUTPUT/cells.jsonl and are kept: the same command goes on after an interruption. OUTPUT/tables.md
says what came out. The retrained models beside which it is read are those of make lume (220 rows) in
docs/results/lume_small.md.
"""

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor

import controls
import second_order
from expunge.influence import dual, margin_pairs
from expunge.influence.dual import Dual, RowPairs
from expunge.loop.trial import method_of
from expunge.problem import Problem, Split
from expunge.reference.cache import KeptDistributions, keep_distributions, row_losses, window_divergences
from expunge.scoring.intervals import area_draws
from in_memory import Cells, World, movable, opened, seen, unlearned
from lume_small import SIZES, TASKS, Size, fifth, make_models, prepare, read_fold

TENTH = 0.1
SPOILT = controls.path("kfac_spoilt")
REQUESTS: dict[str, dict[str, dict[str, Any]]] = {
    "three": {"margin_newton": {}, "loss_matching": {}},
    "tenth": {"margin_newton": {}, "loss_matching": {}},
    "forget": {"margin_newton": {}, "loss_matching": {}},
}
ABLATION: dict[str, dict[str, Any]] = {
    "as it is": {},
    "inputs alone (S = 1)": {"curvature": SPOILT, "curvature_options": {"how": "even"}},
    "shuffled factors": {"curvature": SPOILT, "curvature_options": {"how": "shuffled"}},
    "no curvature": {"curvature": "identity"},
    "losses in place of margins": {"patched": "losses"},
    "one constraint for all rows": {"patched": "one"},
    "no token weights": {"patched": "weights"},
    "no restoration": {"restorations": 0},
    "one restoration": {"restorations": 1},
    "restorations without projection": {"patched": "projection"},
    "damping 0.0001": {"damping": 0.0001},
    "damping 0.1": {"damping": 0.1},
    "damping 1": {"damping": 1.0},
    "MLP layers": {"layers": "mlp"},
    "attention layers": {"layers": "attention"},
    "lower half of the layers": {"layers": "all 0-1"},
    "upper half of the layers": {"layers": "all 2-3"},
    "fit on 30 rows": {"fit_rows": 30},
    "fit on 100 rows": {"fit_rows": 100},
    "fit on all rows": {"fit_rows": 1000},
    "20 rows held": {"held_rows": 20},
    "80 rows held": {"held_rows": 80},
    "fitted anew every second iteration": {"refit_every": 2},
}


def loss_cotangent(logits: Tensor, ids: Tensor) -> Tensor:
    """The gradient of each target's log-likelihood by its logits, which vanishes on what is memorised."""
    return -logits.softmax(dim=1).scatter_add(1, ids[:, None], -torch.ones_like(logits[:, :1]))


def one_for_all(gram: Tensor, deltas: Tensor, relative: float) -> Dual:
    """All rows weigh alike, by so much that the mean margin falls by the mean need."""
    weights = torch.full_like(deltas, float(deltas.sum() / gram.sum()))
    return Dual(weights, 0.0, float((gram @ weights - deltas).abs().max() / deltas.abs().max()))


PATCHES: dict[str, Callable[[], Any]] = {
    "losses": lambda: patch.object(margin_pairs, "margin_cotangent", loss_cotangent),
    "one": lambda: patch.object(dual, "solved", one_for_all),
    "projection": lambda: patch.object(RowPairs, "along", lambda pairs, white: torch.zeros(pairs.count).double()),
}


@contextmanager
def changed(problem: Problem, how: str | None) -> Iterator[Problem]:
    """The problem as a variant has it, with our code changed while it runs."""
    with ExitStack() as stack:
        if how in PATCHES:
            stack.enter_context(PATCHES[how]())
        yield replace(problem, base_margins=None) if how == "weights" else problem


def requests(lume: Path, data: Path) -> None:
    """Writes three.jsonl, retain_given.jsonl and tenth.jsonl: whole documents of the tasks in turn."""
    second_order.halves(lume, data)
    documents, most = read_fold(lume, "forget_train"), TENTH * len((data / "train.jsonl").read_text().splitlines())
    by_task = [sorted(key for key in fifth(documents) if documents[key][0]["task"] == task) for task in TASKS]
    rows: list[dict[str, str]] = []
    for key in (key for keys in itertools.zip_longest(*by_task) for key in keys if key):
        if len(rows) < most:
            rows.extend(documents[key])
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (data / "tenth.jsonl").write_text(text, encoding="utf-8")


def world(request: str, size: Size) -> World:
    data = size.work / "data"
    names = {"forget": request, "retain": "retain_given", "holdout": "holdout", "train": "train"}
    rows = {name: data / f"{file}.jsonl" for name, file in names.items()}
    return opened(size.work / "models", rows, "lume")


def by_kind(values: Tensor, split: Split) -> dict[str, Tensor]:
    kinds = np.array([row.kind for row in split.rows])
    return {kind: values[torch.tensor(kinds == kind)] for kind in sorted(set(kinds))}


def attack(forget: Tensor, judging: Tensor) -> float:
    """The chance that a forget row has a lower loss than a never-seen one: 0.5 where they cannot be told apart."""
    draws = area_draws([(forget.numpy(), judging.numpy())])
    assert draws is not None
    return draws.value


def judged(here: World, problem: Problem, kept: Mapping[str, KeptDistributions]) -> dict[str, Any]:
    """What a model shows of the rows to forget, of those to keep, and of never-seen ones."""
    forget, others = problem.splits["forget"], here.assembled.judged
    losses = {name: row_losses(problem, problem.model, split) for name, split in others.items() if name in kept}
    own = row_losses(problem, problem.model, forget)
    never = by_kind(losses["judging"], others["judging"])
    found: dict[str, Any] = {
        "forget": seen(problem, forget).figures(),
        "auc": {kind: round(attack(part, never[kind]), 3) for kind, part in by_kind(own, forget).items()},
    }
    for name in kept:
        moved = window_divergences(problem, others[name], kept[name])
        found[name] = seen(problem, others[name]).figures() | {
            "kl": round(moved.kl_per_token, 4),
            "loss": round(moved.loss_per_token, 4),
        }
    return found


def cell(here: World, method: str, options: dict[str, Any], seed: int) -> dict[str, Any]:
    """One run: figures before and after, quartiles of the losses over those of the targets, and what it took."""
    options = dict(options)
    with changed(here.problem, options.pop("patched", None)) as problem:
        start = movable(problem, seed, method_of(method, options))
        names = [name for name in ("retain", "guard", "collateral", "judging") if name in here.assembled.judged]
        kept = {name: keep_distributions(start, here.assembled.judged[name]) for name in names}
        before, began = judged(here, start, kept), time.perf_counter()
        run = unlearned(problem, method, options, seed)
    targets = np.array(run.outcome.targets)
    after = row_losses(run.problem, run.problem.model, run.problem.splits["forget"]).numpy()
    quartiles = [0.25, 0.5, 0.75]
    return {
        "rows": len(after),
        "seconds": round(time.perf_counter() - began, 1),
        "tokens": run.outcome.tokens,
        "row_passes": round(run.outcome.row_passes / len(after), 1),
        "over_targets": (np.quantile(after, quartiles) / np.quantile(targets, quartiles)).round(3).tolist(),
        "before": before,
        "after": judged(here, run.problem, kept),
        "stopped": run.outcome.stopped,
    }


HEADINGS = (
    "variant", "seed", "forget over targets", "AUC document, answer", "known: forget", "given", "not given", "(before)",
    "KL not given", "perplexity of never-seen rows", "row passes a row", "tokens",
)  # fmt: skip


def line(one: Mapping[str, Any]) -> list[str]:
    before, after = one["before"], one["after"]
    rise = np.exp(after["judging"]["loss"] - before["judging"]["loss"]) - 1
    auc = after["auc"]
    return [
        one["variant"],
        str(one["seed"]),
        ", ".join(f"{value:.2f}" for value in one["over_targets"]),
        ", ".join(f"{auc[kind]:.2f}" for kind in ("document", "answer") if kind in auc),
        *(f"{after[name]['known']:.2f}" for name in ("forget", "retain", "collateral")),
        f"{before['collateral']['known']:.2f}",
        f"{after['collateral']['kl']:.3f}",
        f"{rise:+.1%}",
        f"{one['row_passes']:.0f}",
        f"{one['tokens']:,}",
    ]


def tables(cells: Cells) -> str:
    found = []
    for title in dict.fromkeys((one["part"], one["request"]) for one in cells.lines):
        own = [one for one in cells.lines if (one["part"], one["request"]) == title]
        rows = [list(HEADINGS), ["---"] * len(HEADINGS), *map(line, own)]
        lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
        found.append(f"## {title[0]}: {own[0]['rows']} rows\n\n{lines}\n")
    return "\n".join(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lume", type=Path, required=True, help="folder of the four public LUME folds")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--parts", nargs="+", default=["requests", "ablation"], choices=["requests", "ablation"])
    parser.add_argument("--requests", nargs="+", default=list(REQUESTS), choices=list(REQUESTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=list(ABLATION), help="of the ablation; all")
    parser.add_argument("--size", choices=list(SIZES), default="small")
    arguments = parser.parse_args()
    size = SIZES[arguments.size]
    prepare(arguments.lume, size.work / "data")
    make_models(size, 0)
    requests(arguments.lume, size.work / "data")
    cells = Cells(arguments.output / "cells.jsonl")
    asked = {
        "requests": {name: REQUESTS[name] for name in arguments.requests},
        "ablation": {"tenth": {name: ABLATION[name] for name in arguments.variants or ABLATION}},
    }
    for part, seed in itertools.product(arguments.parts, arguments.seeds):
        for request, variants in asked[part].items():
            here = world(request, size)
            for variant, options in variants.items():
                key = {"part": part, "request": request, "variant": variant, "seed": seed}
                if not cells.has(**key):
                    method = "loss_matching" if variant == "loss_matching" else "margin_newton"
                    cells.add(**key, **cell(here, method, options, seed))
                    (arguments.output / "tables.md").write_text(tables(cells), encoding="utf-8")


if __name__ == "__main__":
    main()
